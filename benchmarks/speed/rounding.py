"""Time the rounding of float32 to float16: NumPy's cast, rekernel's operations on blocks, and torch's hardware.

    python benchmarks/speed/rounding.py

Nanoseconds a value, in pieces as large as those of a conversion, each thread with pieces of its own; best of `REPEATS`.
Normal values with deviation 0.005, and values most of which are subnormal in float16. Each way runs in a process of its
own; what its imports cost is measured in another, in seconds and in peak memory, which the kernel counts (see `child`).
Stored in results/rounding.json beside those of other machines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import child
import machine
import numpy as np
from numpy.typing import NDArray

PIECE, PIECES, REPEATS, THREADS = 1 << 20, 16, 5, (1, 2)
DEVIATIONS = {"normal": 0.005, "subnormal": 2e-5}
WAYS = ("numpy", "rekernel", "torch")
IMPORTS = {"numpy": "import numpy", "rekernel": "import numpy, rekernel.rounding.half", "torch": "import numpy, torch"}


def rounding(way: str) -> Callable[[NDArray[Any], NDArray[Any]], object]:
    """The function (values, out) of a way."""
    if way == "numpy":
        return lambda values, out: np.copyto(out, values, casting="same_kind")
    if way == "rekernel":
        from rekernel.rounding.half import round_half

        return round_half
    import torch

    torch.set_num_threads(1)  # the pool below has the threads
    return lambda values, out: torch.from_numpy(out).copy_(torch.from_numpy(values))


def nanoseconds(way: str, deviation: float, threads: int) -> float:
    """Wall time of a value, where `threads` share the pieces."""
    f, noise = rounding(way), np.random.default_rng(0)
    values = [noise.standard_normal(PIECE, np.float32) * np.float32(deviation) for _ in range(PIECES)]
    outs = [np.empty(PIECE, np.float16) for _ in range(PIECES)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            begin = time.perf_counter()
            list(pool.map(f, values, outs))
            best = min(best, time.perf_counter() - begin)
    with np.errstate(under="ignore"):
        assert all(np.array_equal(out, v.astype(np.float16)) for v, out in zip(values, outs, strict=True)), way
    return 1e9 * best / (PIECE * PIECES)


def here(way: str) -> dict[str, float]:
    """The times of a way in this process."""
    return {f"{name}, {n}": nanoseconds(way, d, n) for name, d in DEVIATIONS.items() for n in THREADS}


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument(
        "way", nargs="?", choices=WAYS, help="print the times of this way alone, as JSON; store nothing"
    )
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(here(asked.way)))
        return
    rows = {}
    print(f"float32 to float16, ns a value ({asked.machine}, pieces of {PIECE} values)")
    heads = [f"{name}, {n} thr." for name in DEVIATIONS for n in THREADS]
    print(" " * 10 + "".join(f"{head:>18s}" for head in (*heads, "import s", "memory MB")))
    for way in WAYS:
        if way == "torch" and not find_spec("torch"):
            print("torch      is not installed")
            continue
        row = json.loads(subprocess.check_output([sys.executable, __file__, way]))
        imports = [child.measured([sys.executable, "-c", IMPORTS[way]]) for _ in range(3)]
        row |= {"import_s": min(seconds for seconds, _ in imports), "import_peak": min(peak for _, peak in imports)}
        rows[way] = row
        cells = "".join(f"{row[f'{name}, {n}']:18.2f}" for name in DEVIATIONS for n in THREADS)
        print(f"{way:10s}{cells}{row['import_s']:18.2f}{row['import_peak'] / 1e6:18.0f}", flush=True)
    setting = machine.setting(piece=PIECE, repeats=REPEATS)
    machine.store("rounding", setting, rows, machine=asked.machine, folder=asked.results)


if __name__ == "__main__":
    main()
