"""The requested size over the trained one: as a user gives it, and per axis of a grid.

Knows numbers; no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import RekernelError

Scale = float | tuple[float, ...] | str
"""'auto', a number for height and width, or one per grid axis."""


def checked_scale(scale: Any) -> Scale:
    """The scale as it is kept: 'auto', a number, or one per axis; each at least 1."""
    if scale == "auto":
        return "auto"
    try:
        numbers = (
            tuple(map(float, scale)) if isinstance(scale, Sequence) and not isinstance(scale, str) else float(scale)
        )
    except (TypeError, ValueError):
        numbers = 0.0
    each = numbers if isinstance(numbers, tuple) else (numbers,)
    if not each or not all(1 <= n < math.inf for n in each):
        raise RekernelError(f"scale={scale!r} must be a number of at least 1, one per grid axis, or 'auto'")
    return numbers


def factors_for(scale: Scale, size: Sequence[int], trained: Sequence[int] | None) -> tuple[float, ...]:
    """One factor per grid axis of `size`; a number counts for the last two, 'auto' compares with the trained size."""
    axes = len(size)
    if isinstance(scale, str):
        if trained is None:
            raise RekernelError("scale='auto' needs the trained size, and the network's config has none; pass a number")
        missing = axes - len(trained)
        return (1.0,) * missing + tuple(max(1.0, n / m) for n, m in zip(size[missing:], trained, strict=True))
    if isinstance(scale, tuple):
        if len(scale) > axes:
            raise RekernelError(f"scale={scale} has {len(scale)} entries for a grid of {axes} axes")
        return (1.0,) * (axes - len(scale)) + scale
    return (1.0,) * max(0, axes - 2) + (scale,) * min(axes, 2)


def low_size(size: Sequence[int], factors: Sequence[float], multiple: int = 1) -> tuple[int, ...]:
    """Pixels of the reduced grid: the nearest whole numbers, of the last two axes the nearest multiples.

    Examples
    --------
    >>> low_size((8, 20, 24), (1, 2, 2)), low_size((8, 20, 24), (1, 2, 2), multiple=4)
    ((8, 10, 12), (8, 8, 12))
    """
    unit = [1] * (len(size) - 2) + [multiple] * min(2, len(size))
    pairs = zip(size, factors, unit, strict=True)
    return tuple(n if f == 1 else min(n, u * max(1, round(n / f / u))) for n, f, u in pairs)


def shown_scale(scale: Scale) -> str:
    """The scale as a person writes it."""
    if isinstance(scale, str):
        return scale
    if isinstance(scale, tuple) and len(set(scale)) == 1:
        scale = scale[0]
    return "x".join(f"{s:g}" for s in scale) if isinstance(scale, tuple) else f"{scale:g}"
