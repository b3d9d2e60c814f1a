"""Run many random conversions and cycles of attaching, and look for leaks, drift and leftovers.

    python benchmarks/soak/soak.py --conversions 2000 --cycles 500

It ends with exit code 1 at the first wrong result, and names its seed. Setting: one process, one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

GROWTH = 32 << 20  # bytes of resident memory that may be kept after warming up: caches of libraries


def one_arena() -> None:
    """Let all threads allocate in one place: the C library's own places for threads look like a leak."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-8, 1)  # M_ARENA_MAX


def resident() -> int:
    """Resident bytes, without those that are free but not given back yet."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def watched(what: str, count: int, warm_up: int, run: Callable[[int, int], Counter], seed: int) -> dict[str, Any]:
    """Run some to warm up and then all, and compare memory and open files before and after."""
    run(warm_up, seed + 10**6)
    memory, files, began = resident(), descriptors(), time.monotonic()
    counts = run(count, seed)
    grown = resident() - memory
    assert descriptors() == files, f"{what}: {descriptors() - files} open files are left"
    assert grown < GROWTH, f"{what}: {grown >> 20} MiB of memory are kept"
    return {**counts, "seconds": round(time.monotonic() - began), "memory kept, MiB": grown >> 20}


def soak(conversions: int, cycles: int, seed: int = 0) -> dict[str, Any]:
    """The counts of both parts; raises AssertionError at the first wrong result."""
    import soak_checkpoints

    one_arena()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if conversions:
            report["conversions"] = watched(
                "conversions", conversions, min(50, conversions), lambda n, s: soak_checkpoints.run(n, s, place), seed
            )
        assert list(place.iterdir()) == []
    if cycles:
        import soak_cycles

        report["attaching"] = watched("attaching", cycles, min(20, cycles), soak_cycles.run, seed)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversions", type=int, default=2000)
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the counts to this file, as JSON")
    given = parser.parse_args()
    text = json.dumps(soak(given.conversions, given.cycles, given.seed), indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
