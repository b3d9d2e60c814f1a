"""Time rescaling of one layer's kernels: ours, torch's F.interpolate on the same tensor, and filling the result alone.

    python benchmarks/speed/resample.py

1280 x 1280 x 3 x 3 in float32, the largest square layer of Stable Diffusion's UNet; best of `REPEATS`, all cores.
F.interpolate gets the same number of taps. Its kernel is a different one; it is the call that a script would make.
Writes results/resample.json.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel as rk

HERE = Path(__file__).parent
SHAPE = (1280, 1280, 3, 3)
REPEATS = 7
CASES = [("linear", 5, "bilinear"), ("linear", 7, "bilinear"), ("cubic", 11, "bicubic"), ("optimal", 5, "bilinear")]


def best(f: Callable[[], object]) -> float:
    """Milliseconds of the fastest of `REPEATS` calls, each of which allocates its own result."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - begin)
    return 1000 * min(seconds)


def measure(method: str, taps: int, mode: str) -> dict[str, float]:
    w = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    tensor = torch.from_numpy(w)
    return {
        "numpy": best(lambda: rk.resample_conv(w, 2, method, taps=taps)),
        "torch": best(lambda: rk.resample_conv(tensor, 2, method, taps=taps)),
        "interpolate": best(lambda: F.interpolate(tensor, size=(taps, taps), mode=mode) / 4),
        "fill": best(lambda: np.full((*SHAPE[:2], taps, taps), 1, np.float32)),
    }


def main() -> None:
    names = [x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    setting = {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "repeats": REPEATS,
        "numpy": np.__version__, "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
    rows = [{"method": m, "taps": t, **measure(m, t, mode)} for m, t, mode in CASES]
    print(f"1280x1280x3x3, ms ({setting['cpu']}, {setting['cores']} cores, best of {REPEATS})")
    print("method   taps      numpy   torch  interpolate  fill only  speed-up (numpy)  (torch)")
    for r in rows:
        print(
            f"{r['method']:8s} 3 -> {r['taps']:<3d} {r['numpy']:7.0f} {r['torch']:7.0f} {r['interpolate']:12.0f} "
            f"{r['fill']:10.0f} {r['interpolate'] / r['numpy']:16.1f}x {r['interpolate'] / r['torch']:8.1f}x"
        )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "resample.json").write_text(json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
