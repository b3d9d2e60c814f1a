"""Planning and conversion by two versions of rekernel, in one run.

    git worktree add --detach /tmp/before 566b4cc
    TMPDIR=/dev/shm python benchmarks/speed/versions.py /tmp/before

Every measurement runs in a process of its own. The versions take turns, and the ratio is between the best of the
repeats, since noise of the machine only ever adds time; the ratio of the medians stands in brackets. TMPDIR in memory
leaves the noise of the disk out. The default method was `linear` at 566b4cc and is `optimal` since, which imports
scipy.linalg, once for each process; so the same method has a row, and each version's own default has another. Writes
results/versions.json.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
import numpy as np
import safetensors.numpy

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

START = "import time; begin = time.perf_counter()\n"
END = "\nprint(time.perf_counter() - begin)"
TRACE = (
    "import inspect, torch, rekernel.torch as rkt\nfrom torch import nn\n"
    # The check by running came later: what it costs is a row of its own.
    "more = {'check': False} if 'check' in inspect.signature(rkt.rescale).parameters else {}\n"
    "layers = [m for i in range(40) for m in (nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())]\n"
    "model = nn.Sequential(*layers).eval(); x = torch.zeros(1, 16, 32, 32)\n"
    "rkt.rescale(model, 2, x, **more)\n"  # once, so that imports and caches are not measured
)
CASES = {
    "import rekernel": START + "import rekernel" + END,
    "plan a ResNet-152 by name": "import rekernel, sys\n" + START
    + "for _ in range(5): rekernel.plan_checkpoint(sys.argv[1] + '/resnet.safetensors', 2)" + END,
    "trace and rescale 40 layers": TRACE + START + "for _ in range(3): rkt.rescale(model, 2, x, **more)" + END,
    "the same, and check by running where the version does": TRACE + START
    + "for _ in range(3): rkt.rescale(model, 2, x)" + END,
    "convert 256 MB, linear, 5 taps": "import rekernel, sys\n" + START
    + "rekernel.convert(sys.argv[1] + '/convs.safetensors', sys.argv[1] + '/out.safetensors', scale=2, force=True, "
    "method='linear', taps=5)" + END,
    "convert 256 MB, each version's own default": "import rekernel, sys\n" + START
    + "rekernel.convert(sys.argv[1] + '/convs.safetensors', sys.argv[1] + '/out.safetensors', scale=2, force=True)"
    + END,
    "convert 256 MB, bicubic full": "import rekernel, sys\n" + START
    + "rekernel.convert(sys.argv[1] + '/convs.safetensors', sys.argv[1] + '/out.safetensors', scale=2, force=True, "
    "method='cubic', taps='full')" + END,
}  # fmt: skip


def build(folder: Path) -> None:
    """A ResNet-152's names with few channels, and 256 MB of float32 kernels."""
    layers: dict[str, np.ndarray] = {"conv1.weight": np.zeros((8, 3, 7, 7), np.float32)}
    for stage, blocks in enumerate((3, 8, 36, 3), 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            for number, k in ((1, 1), (2, 3), (3, 1)):
                layers[f"{at}.conv{number}.weight"] = np.zeros((8, 8, k, k), np.float32)
                for what in ("weight", "bias", "running_mean", "running_var"):
                    layers[f"{at}.bn{number}.{what}"] = np.zeros(8, np.float32)
        layers[f"layer{stage}.0.downsample.0.weight"] = np.zeros((8, 8, 1, 1), np.float32)
    layers["fc.weight"] = np.zeros((10, 8), np.float32)
    safetensors.numpy.save_file(layers, folder / "resnet.safetensors")
    noise = np.random.default_rng(0).standard_normal((1024, 1024, 3, 3), np.float32)
    safetensors.numpy.save_file({f"conv{i}.weight": noise for i in range(7)}, folder / "convs.safetensors")


def seconds(code: str, version: Path, folder: Path) -> float:
    """What one process measured of itself."""
    environment = {**os.environ, "PYTHONPATH": str(version / "src")}
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, check=True, capture_output=True, text=True
    )
    return float(run.stdout.split()[-1])


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("before", type=Path, help="a checkout of the other version")
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        for label, code in CASES.items():
            times: dict[str, list[float]] = {"before": [], "now": []}
            for turn in range(given.repeats):
                sides = [("before", given.before.resolve()), ("now", ROOT)]
                for side, version in sides if turn % 2 else sides[::-1]:  # what a run leaves in memory slows the next
                    times[side].append(seconds(code, version, folder))
            (before, now), (usual_before, usual_now) = (
                [pick(times[side]) for side in ("before", "now")] for pick in (min, statistics.median)
            )
            rows[label] = {
                "before_s": round(before, 3), "now_s": round(now, 3), "ratio": round(now / before, 2),
                "ratio_of_medians": round(usual_now / usual_before, 2),
            }  # fmt: skip
            print(
                f"{label:54s} {before:8.3f} {now:8.3f}  {now / before:.2f} ({usual_now / usual_before:.2f})", flush=True
            )
    commits = {
        side: subprocess.run(["git", "-C", str(path), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        .stdout.strip()
        for side, path in (("before", given.before), ("now", ROOT))
    }  # fmt: skip
    result = {"processor": given.machine, "cores": os.cpu_count(), "commits": commits}
    machine.write("versions", {**result, "rows": rows}, given.results, indent=1)


if __name__ == "__main__":
    main()
