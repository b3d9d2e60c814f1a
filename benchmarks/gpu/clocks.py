"""Time calls that take turns, and measure the memory that a call adds, on a CUDA device or a CPU.

Scope: clocks and counters. Not here: what is called (see `layer_rows`, `resample_rows`, `step_rows`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]
_TURN = 0.002  # seconds of one turn: many calls of a small layer, so that the events cost little


def in_turns(calls: Mapping[str, Call], device: str, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of each call: {'median', 'fastest', 'turns'}, about `seconds` for each, three turns at least.

    All calls take turns, so a clock that changes changes for all alike. On CUDA two events measure a turn, so the time
    in which Python starts kernels counts where the device waits for it, as for a user of PyTorch. Two turns warm up.
    """
    repeats, found = {}, {name: [] for name in calls}
    for name, call in calls.items():
        _milliseconds(call, 1, device)
        repeats[name] = max(1, round(_TURN / max(1e-6, _milliseconds(call, 1, device) / 1000)))
    end = time.perf_counter() + seconds * len(calls)
    while (made := len(next(iter(found.values())))) < 3 or time.perf_counter() < end:
        for name, call in calls.items():
            found[name].append(_milliseconds(call, repeats[name], device))
        if made > 1000:
            break
    return {
        name: {"median": statistics.median(times), "fastest": min(times), "turns": len(times)}
        for name, times in found.items()
    }


def _milliseconds(call: Call, repeats: int, device: str) -> float:
    """Milliseconds of one call, in a row of `repeats`."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / repeats
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1000 * (time.perf_counter() - start) / repeats


def peak_bytes(call: Call, device: str) -> int | None:
    """Bytes that a call needs at its peak, beyond those in use before, its result included; None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
