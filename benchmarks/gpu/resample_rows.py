"""The rows that time `resample_conv` on tensors of the device against F.interpolate and against filling the result.

Scope: the calls. Not here: time and memory (see `clocks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from clocks import in_turns, peak_bytes
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel as rk

CHANNELS = 1280
CASES = (("linear", 5, "bilinear"), ("linear", 7, "bilinear"), ("cubic", 11, "bicubic"), ("optimal", 5, "bilinear"))
DTYPES = ("float32", "float16", "bfloat16")


def rows(channels: int, dtypes: Sequence[str]) -> Iterator[tuple[str, Callable[[str, float], dict[str, Any]]]]:
    """Keys, and functions (device, seconds for each call) that measure them."""
    for dtype in dtypes:
        for method, taps, mode in CASES:
            yield (
                f"resample: {method} 3 -> {taps}, {channels} channels, {dtype}",
                lambda device, seconds, case=(method, taps, mode, dtype): measured(channels, *case, device, seconds),
            )


def measured(
    channels: int, method: str, taps: int, mode: str, dtype: str, device: str, seconds: float
) -> dict[str, Any]:
    """Milliseconds and bytes of ours, of F.interpolate, and of filling a new tensor as large as the result."""
    torch.manual_seed(0)
    w = torch.randn(channels, channels, 3, 3, device=device).to(getattr(torch, dtype))
    calls = {
        "resample": lambda: rk.resample_conv(w, 2, method, taps=taps),
        "interpolate": lambda: F.interpolate(w, size=(taps, taps), mode=mode) / 4,
        "fill": lambda: torch.ones(channels, channels, taps, taps, device=device, dtype=w.dtype),
    }
    with torch.inference_mode():
        times = in_turns(calls, device, seconds)
        peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
    forms = {name: {**times[name], "peak bytes": peaks[name]} for name in calls}
    return {"kind": "resample", "method": method, "taps": taps, "channels": channels, "dtype": dtype, "forms": forms}
