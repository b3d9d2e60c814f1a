"""Time rescaling of one layer's kernels: ours, torch's F.interpolate on the same tensor, and filling the result alone.

    python benchmarks/speed/resample.py

1280 x 1280 x 3 x 3, the largest square layer of Stable Diffusion's UNet; the best of `ROUNDS` times `REPEATS`, all
cores. F.interpolate gets the same number of taps. Its kernel is a different one; it is the call that a script would
make. 'fill' writes ones into a new array as large as the result, in one thread as `np.full` does, or in one thread for
each core. Most of that time the system maps new memory. Stored in results/resample.json beside those of other
machines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import machine
import ml_dtypes
import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel as rk

SHAPE = (1280, 1280, 3, 3)
REPEATS, ROUNDS = 2, 3
CASES = [("linear", 5, "bilinear"), ("linear", 7, "bilinear"), ("cubic", 11, "bicubic"), ("optimal", 5, "bilinear")]
DTYPES = ("float32", "float16", "bfloat16")


def best(f: Callable[[], object]) -> float:
    """Milliseconds of the fastest of `REPEATS` calls, each of which allocates its own result."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - begin)
    return 1000 * min(seconds)


def filled(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """A new array of ones, each core its own part."""
    out, cores = np.empty(shape, dtype), os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda part: part.fill(1), np.array_split(out, cores)))


def measure(method: str, taps: int, mode: str, dtype: str) -> dict[str, float]:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    w = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32).astype(kind)
    tensor = torch.from_numpy(w.astype(np.float32)).to(getattr(torch, dtype))
    shape = (*SHAPE[:2], taps, taps)
    row = {
        "numpy": best(lambda: rk.resample_conv(w, 2, method, taps=taps)),
        "torch": best(lambda: rk.resample_conv(tensor, 2, method, taps=taps)),
        "fill": best(lambda: np.full(shape, 1, kind)),
        "fill, all cores": best(lambda: filled(shape, kind)),
    }
    if dtype == "float32":  # in 16 bits a script converts to float32 first
        row["interpolate"] = best(lambda: F.interpolate(tensor, size=(taps, taps), mode=mode) / 4)
    return row


def main() -> None:
    asked = machine.parser(__doc__).parse_args()
    setting = machine.setting(repeats=REPEATS * ROUNDS, torch=torch.__version__, threads=torch.get_num_threads())
    print(f"1280x1280x3x3, ms ({asked.machine}, {setting['cores']} cores, best of {REPEATS * ROUNDS})")
    print("dtype     method   taps      numpy   torch  interpolate  fill only  all cores  numpy/fill  /all cores")
    rows: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):  # not one row after the other: noise of the machine may last for seconds
        for dtype in DTYPES:
            for method, taps, mode in CASES:
                name, new = f"{dtype}, {method}, {taps} taps", measure(method, taps, mode, dtype)
                rows[name] = {side: min(x, rows.get(name, new)[side]) for side, x in new.items()}
    for name, r in rows.items():
        dtype, method, taps = name.removesuffix(" taps").split(", ")
        other = f"{r['interpolate']:12.0f}" if "interpolate" in r else " " * 12
        print(
            f"{dtype:9s} {method:8s} 3 -> {taps:3s} {r['numpy']:7.0f} {r['torch']:7.0f} {other} "
            f"{r['fill']:10.0f} {r['fill, all cores']:10.0f} {r['numpy'] / r['fill']:11.2f} "
            f"{r['numpy'] / r['fill, all cores']:11.2f}"
        )
    machine.store("resample", setting, rows, machine=asked.machine, folder=asked.results)


if __name__ == "__main__":
    main()
