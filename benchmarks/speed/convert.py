"""Time offline conversion against a script around F.interpolate, and against copying a file as large as the result.

    python benchmarks/speed/convert.py --folder /path/with/40GB [--only default] [--rounds 2] [--more]

The checkpoints have the shapes of SDXL's and Stable Diffusion 1.5's UNets and random float16 weights. diffusers builds
the shapes from the configuration, in a process of its own. Every side runs in a process of its own too, starts with the
source in the page cache and ends when its result is synced to disk. The sides take turns; a time is the best of the
rounds, since a disk's noise only adds time, and a peak is the largest. Peak memory is what the kernel counted (see
`child`). The rows are stored in results/convert.json beside those of other machines.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import child
import machine
import numpy as np

from rekernel import plan_source
from rekernel.checkpoint.writer import StreamingWriter

SDXL = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
}  # fmt: skip
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
MODELS = {"sdxl": SDXL, "sd15": SD15}
# Row: the model, and the options of `convert`. A process that has imported torch rounds float16 by its hardware.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("sdxl", {}),
    "default, after `import torch`": ("sdxl", {}),
    "bicubic full": ("sdxl", {"method": "cubic"}),
    "small checkpoint": ("sd15", {}),
    "small checkpoint, after `import torch`": ("sd15", {}),
    "small checkpoint, cast to bfloat16": ("sd15", {"dtype": "BF16"}),
    "one tensor changes": ("sdxl", {"include": ["conv_out"]}),
}
AFTER_TORCH = "after `import torch`"
ALLOWED = 250e6  # bytes of the peak beside two of the largest tensor
SANE_BASE = (15e6, 90e6)  # bytes of an interpreter with NumPy and rekernel

SHAPES = """
import json, sys, torch
from diffusers import UNet2DConditionModel
with torch.device("meta"):
    model = UNet2DConditionModel(**json.loads(sys.argv[1]))
print(json.dumps({name: list(value.shape) for name, value in model.state_dict().items()}))
"""
# What a user without rekernel writes: the whole model in memory, tensor by tensor, saved at the end.
SCRIPT = """
import json, sys, torch, torch.nn.functional as F
from safetensors.torch import load_file, save_file
source, target, sizes, dtype = sys.argv[1], sys.argv[2], json.loads(open(sys.argv[3]).read()), sys.argv[4]
weights = load_file(source)
for name, size in sizes.items():
    w = weights[name].float()
    weights[name] = (F.interpolate(w, size=size, mode="bicubic") / 4).half()
if dtype == "BF16":
    weights = {name: w.bfloat16() for name, w in weights.items()}
save_file(weights, target, metadata={"format": "pt"})
"""
OURS = """
import json, sys, warnings, rekernel
warnings.simplefilter("ignore", rekernel.RekernelWarning)
rekernel.convert(sys.argv[1], sys.argv[2], scale=2, **json.loads(sys.argv[3]))
"""
FILL = """
import json, sys, time, numpy as np
begin = time.perf_counter()
for shape in json.loads(open(sys.argv[1]).read()).values():
    np.full(shape, 1, np.float16)
print(time.perf_counter() - begin)
"""


def build(path: Path, model: str) -> None:
    """The tensors of a UNet, normal with deviation 0.02, float16."""
    found = subprocess.run(
        [sys.executable, "-c", SHAPES, json.dumps(MODELS[model])], stdout=subprocess.PIPE, check=True
    )
    tensors = [(name, "F16", tuple(shape)) for name, shape in json.loads(found.stdout.splitlines()[-1]).items()]
    noise = (np.random.default_rng(0).standard_normal(1 << 24) * 0.02).astype(np.float16)
    with StreamingWriter(path, tensors, {"format": "pt"}, force=True) as writer:
        for name, info in writer.tensors.items():
            for start in range(0, info.nbytes, noise.nbytes):
                writer.write_at(name, start, noise[: (min(info.nbytes - start, noise.nbytes)) // 2])


def source_of(model: str, folder: Path) -> Path:
    """The checkpoint of a model in `folder`, built where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model}-unet-random.safetensors"
    if not path.exists():
        build(path, model)
    return path


def warm(path: Path) -> None:
    """Put a file into the page cache, after everything that waits for the disk."""
    subprocess.run(["sync"], check=True)
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def base_peak(folder: Path) -> int:
    """Peak bytes of a conversion of 5 kB: the interpreter and NumPy. A peak of the benchmark itself would be larger."""
    tiny, result = folder / "tiny.safetensors", folder / "tiny-2x.safetensors"
    with StreamingWriter(tiny, [("c.weight", "F16", (8, 8, 3, 3))], None, force=True) as writer:
        writer.write("c.weight", np.zeros((8, 8, 3, 3), np.float16))
    _, peak = child.measured([sys.executable, "-c", OURS, str(tiny), str(result), '{"force": true}'], str(result))
    for path in (tiny, result):
        path.unlink()
    assert SANE_BASE[0] < peak < SANE_BASE[1], f"a conversion of 5 kB had a peak of {peak / 1e6:.0f} MB"
    return peak


def turn(ours: str, case: dict[str, Any], source: Path, sizes: Path, shapes: Path) -> dict[str, float]:
    """One round of a row: ours, cp, the filling of the new weights, and the script."""
    result, other = source.with_name("result.safetensors"), source.with_name("other.safetensors")
    row: dict[str, float] = {}
    try:
        warm(source)
        command = [sys.executable, "-c", ours, str(source), str(result), json.dumps(case)]
        row["ours"], row["ours_peak"] = child.measured(command, str(result))
        row["bytes"] = result.stat().st_size
        warm(result)
        row["cp"], _ = child.measured(["cp", str(result), str(other)], str(other))
        other.unlink()
        row["fill"] = float(subprocess.check_output([sys.executable, "-c", FILL, str(shapes)]))
        result.unlink()
        warm(source)
        command = [sys.executable, "-c", SCRIPT, str(source), str(other), str(sizes), case.get("dtype", "")]
        row["script"], row["script_peak"] = child.measured(command, str(other))
    finally:
        result.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return row


def best(turns: list[dict[str, float]]) -> dict[str, float]:
    """The least time of each side, and the largest peak."""
    return {key: (max if "peak" in key else min)(t[key] for t in turns) for key in turns[0]}


def measure(ours: str, case: dict[str, Any], source: Path, rounds: int) -> dict[str, float]:
    """One row of the table."""
    options = {key: value for key, value in case.items() if key != "dtype"}
    plan = plan_source(source, scale=2, **options)[""]
    shapes, sizes = source.with_name("shapes.json"), source.with_name("sizes.json")
    shapes.write_text(json.dumps({c.name: c.new_shape for c in plan.changed}))
    sizes.write_text(json.dumps({c.name: c.new_shape[2:] for c in plan.changed}))
    turns = [turn(ours, case, source, sizes, shapes) for _ in range(rounds)]
    row = best(turns)
    for path in (shapes, sizes):
        path.unlink()
    return {
        **row, "largest": max(math.prod(c.new_shape) * 2 for c in plan.changes), "changed": len(plan.changed),
        "source_bytes": source.stat().st_size, "rounds": rounds,
    }  # fmt: skip


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where there are 40 GB free")
    parser.add_argument("--only", action="append", choices=CASES, help="these rows; the others keep their results")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--more", action="store_true", help="add to the rounds that are stored, of the same version")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    base = base_peak(given.folder)
    setting = machine.setting(torch=version("torch"), base_peak=base)
    print(f"UNets with random float16 weights, 2x; {given.machine}, {setting['cores']} cores")
    print(f"best of {given.rounds} rounds; a conversion of 5 kB has a peak of {base / 1e6:.0f} MB")
    heads = ("output GB", "ours s", "cp+fill s", "ratio", "script s", "ratio", "peak MB", "limit MB", "script MB")
    print(" " * 35 + "".join(f"{head:>11s}" for head in heads))
    for name in given.only or CASES:
        model, case = CASES[name]
        ours = "import torch" + OURS if AFTER_TORCH in name else OURS
        r = measure(ours, case, source_of(model, given.folder), given.rounds)
        old = machine.stored("convert", given.results).get(given.machine, {"rows": {}})["rows"].get(name)
        if given.more and old:
            r = {**best([old, r]), "rounds": old["rounds"] + r["rounds"]}
        machine.store("convert", setting, {name: r}, machine=given.machine, folder=given.results)
        floor = r["cp"] + r["fill"]
        cells = (r["bytes"] / 1e9, r["ours"], floor, r["ours"] / floor, r["script"], r["script"] / r["ours"])
        megabytes = (r["ours_peak"] / 1e6, (ALLOWED + 2 * r["largest"]) / 1e6, r["script_peak"] / 1e6)
        print(
            f"{name:35s}" + "".join(f"{x:11.2f}" for x in cells) + "".join(f"{x:11.0f}" for x in megabytes), flush=True
        )


if __name__ == "__main__":
    main()
