"""Time offline conversion against a script around F.interpolate, and against copying a file as large as the result.

    python benchmarks/speed/convert.py --folder /path/with/40GB

One run measures all sides on one checkpoint: the SDXL UNet's shapes with random float16 weights (5.1 GB), which
diffusers builds from its configuration without weights. Every side runs in a process of its own, starts with the
source in the page cache and ends when its result is synced to disk. Peak memory is what the kernel counted
(ru_maxrss). Writes results/convert.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from rekernel import plan_source
from rekernel.checkpoint.writer import StreamingWriter

HERE = Path(__file__).parent
SDXL = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
}  # fmt: skip
CASES = {"default": {}, "bicubic full": {"method": "cubic"}}

# What a user without rekernel writes: the whole model in memory, tensor by tensor, saved at the end.
SCRIPT = """
import json, sys, torch, torch.nn.functional as F
from safetensors.torch import load_file, save_file
source, target, sizes = sys.argv[1], sys.argv[2], json.loads(open(sys.argv[3]).read())
weights = load_file(source)
for name, size in sizes.items():
    w = weights[name].float()
    weights[name] = (F.interpolate(w, size=size, mode="bicubic") / 4).half()
save_file(weights, target, metadata={"format": "pt"})
"""
OURS = """
import json, sys, rekernel
rekernel.convert(sys.argv[1], sys.argv[2], scale=2, **json.loads(sys.argv[3]))
"""
FILL = """
import json, sys, time, numpy as np
begin = time.perf_counter()
for shape in json.loads(open(sys.argv[1]).read()).values():
    np.full(shape, 1, np.float16)
print(time.perf_counter() - begin)
"""


def build(path: Path) -> None:
    """SDXL's tensors, normal with deviation 0.02, float16."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        model = UNet2DConditionModel(**SDXL)
    tensors = [(name, "F16", tuple(value.shape)) for name, value in model.state_dict().items()]
    noise = (np.random.default_rng(0).standard_normal(1 << 24) * 0.02).astype(np.float16)
    with StreamingWriter(path, tensors, {"format": "pt"}, force=True) as writer:
        for name, info in writer.tensors.items():
            for start in range(0, info.nbytes, noise.nbytes):
                writer.write_at(name, start, noise[: (min(info.nbytes - start, noise.nbytes)) // 2])


def timed(command: list[str], result: Path) -> tuple[float, int]:
    """Seconds until `result` is on disk, and peak resident bytes."""
    begin = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[:3]} failed with {status}")
    subprocess.run(["sync", result], check=True)
    return time.perf_counter() - begin, usage.ru_maxrss * 1024


def warm(path: Path) -> None:
    subprocess.run(["sync"], check=True)
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def measure(case: dict[str, str], source: Path, folder: Path) -> dict[str, float]:
    """One row of the table: ours, the script, cp and the filling of the output."""
    result, other = folder / "result.safetensors", folder / "other.safetensors"
    plan = plan_source(source, scale=2, **case)[""]
    shapes, sizes = folder / "shapes.json", folder / "sizes.json"
    shapes.write_text(json.dumps({c.name: c.new_shape for c in plan.changed}))
    sizes.write_text(json.dumps({c.name: c.new_shape[2:] for c in plan.changed}))
    largest = max(int(np.prod(c.new_shape)) * 2 for c in plan.changes)
    warm(source)
    seconds, memory = timed([sys.executable, "-c", OURS, str(source), str(result), json.dumps(case)], result)
    row = {"bytes": result.stat().st_size, "largest": largest, "ours": seconds, "ours_peak": memory}
    warm(result)
    row["cp"], _ = timed(["cp", str(result), str(other)], other)
    other.unlink()
    row["fill"] = float(
        subprocess.run([sys.executable, "-c", FILL, str(shapes)], capture_output=True, check=True).stdout
    )
    result.unlink()
    warm(source)
    command = [sys.executable, "-c", SCRIPT, str(source), str(other), str(sizes)]
    row["script"], row["script_peak"] = timed(command, other)
    other.unlink()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where there are 40 GB free")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "sdxl-unet-random.safetensors"
    if not source.exists():
        build(source)
    tiny = folder / "tiny.safetensors"  # what the interpreter and NumPy take before any weight
    with StreamingWriter(tiny, [("c.weight", "F16", (8, 8, 3, 3))], None, force=True) as writer:
        writer.write("c.weight", np.zeros((8, 8, 3, 3), np.float16))
    command = [sys.executable, "-c", OURS, str(tiny), str(folder / "tiny-2x.safetensors"), '{"force": true}']
    base = timed(command, tiny)[1]
    rows = {name: measure(case, source, folder) for name, case in CASES.items()}
    import torch

    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    setting = {
        "source_bytes": source.stat().st_size, "cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(),
        "numpy": np.__version__, "torch": torch.__version__, "base_peak": base,
    }  # fmt: skip
    print(f"SDXL UNet, {source.stat().st_size / 1e9:.1f} GB float16, preset inner, 2x; {cpu}, {os.cpu_count()} cores")
    heads = ("output GB", "ours s", "cp+fill s", "ratio", "script s", "ratio", "peak MB", "limit MB", "script MB")
    print(" " * 14 + "".join(f"{head:>11s}" for head in heads))
    for name, r in rows.items():
        floor = r["cp"] + r["fill"]
        cells = (r["bytes"] / 1e9, r["ours"], floor, r["ours"] / floor, r["script"], r["script"] / r["ours"])
        megabytes = (r["ours_peak"] / 1e6, 250 + 2 * r["largest"] / 1e6, r["script_peak"] / 1e6)
        print(f"{name:14s}" + "".join(f"{x:11.2f}" for x in cells) + "".join(f"{x:11.0f}" for x in megabytes))
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "convert.json").write_text(json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
