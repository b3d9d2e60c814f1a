"""What a rescaled convolution costs to run: dense, factored and dilated forms against the untouched layer.

    python benchmarks/speed/inference.py [--device cuda]

The 3x3 convolutions of Stable Diffusion 1.5's UNet at twice its latent size, one image: float32 on a CPU, float16 with
channels_last on a GPU. The layers are what `rekernel.torch.rescale` makes; 'dilated' is torch's own dilated
convolution with the original weights, which is also what ScaleCrafter runs at whole scales. Best of several runs,
every form in the same run; writes results/inference-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import rekernel.torch as rkt

HERE = Path(__file__).parent
# (channels in, channels out, trained latent size) of resnets: level 1, level 2, the middle, and the widest up block.
LAYERS = ((640, 640, 32), (1280, 1280, 16), (1280, 1280, 8), (2560, 1280, 16))
FORMS: dict[str, dict[str, str]] = {
    "dense same-extent": {},
    "dense full cubic": {"method": "cubic"},
    "factored": {"form": "factored"},
    "dilated": {"method": "dilate", "form": "factored"},
}


def best(f: Callable[[], object], device: str, seconds: float = 2.0) -> float:
    """Milliseconds of the fastest call within so many seconds, at least three."""

    def once() -> float:
        begin = time.perf_counter()
        f()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    once()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        times.append(once())
    return 1000 * min(times)


def measure(inputs: int, outputs: int, size: int, device: str) -> dict[str, float]:
    """Milliseconds of each form at twice the size; extra bytes of the factored form's weights."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    example = torch.zeros(1, inputs, size, size)
    x = torch.randn(1, inputs, 2 * size, 2 * size, generator=torch.Generator().manual_seed(0))
    x = x.to(device, dtype, memory_format=torch.channels_last if device == "cuda" else torch.contiguous_format)
    row = {}
    with torch.inference_mode():
        for name, options in {"untouched": None, **FORMS}.items():
            made = layer if options is None else rkt.rescale(layer, 2, example, **options)
            made = made.to(device, dtype)
            if device == "cuda":
                made = made.to(memory_format=torch.channels_last)
            row[name] = best(lambda made=made: made(x), device)
            row[f"{name} bytes"] = sum(p.nbytes for p in made.parameters())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    device = parser.parse_args().device
    names = [x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    where = torch.cuda.get_device_name() if device == "cuda" else (names[0] if names else platform.processor())
    setting = {"device": where, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    rows = [{"layer": f"{i}->{o} at {2 * n}x{2 * n}", **measure(i, o, n, device)} for i, o, n in LAYERS]
    print(f"3x3 convolutions at 2x, one image ({where}, {setting['threads']} threads); untouched = 1")
    print(f"{'layer':22s}{'untouched ms':>14s}" + "".join(f"{name:>19s}" for name in FORMS))
    for r in rows:
        ratios = "".join(f"{r[name] / r['untouched']:19.2f}" for name in FORMS)
        print(f"{r['layer']:22s}{r['untouched']:14.1f}{ratios}")
    total = {name: sum(r[name] for r in rows) for name in ("untouched", *FORMS)}
    print(f"{'all':22s}{total['untouched']:14.1f}" + "".join(f"{total[n] / total['untouched']:19.2f}" for n in FORMS))
    (HERE / "results").mkdir(exist_ok=True)
    path = HERE / "results" / f"inference-{device}.json"
    path.write_text(json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
