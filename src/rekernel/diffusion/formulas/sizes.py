"""Compute the scale of a sampler, requested size over trained size: as a user gives it, and for each axis of a grid.

Scope: numbers. Not here: where the trained size is read (see `denoiser/target`). The rule of 'auto' is our derivation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...errors import Option, RekernelError
from ...escape import shown

Scale = float | Sequence[float] | str
"""'auto', a number for height and width, or one per grid axis (`checked_scale` returns these as a tuple)."""

_ELONGATED = 4.0  # the longest size in the lists of SDXL, PixArt and Sana
_AREA = 0.85, 1.05  # bounds of the area over the trained area; .90 to 1 in those lists
_SAME_SHAPE = 1.05
_LARGEST = 64.0  # a larger scale is a size: no use is known


def checked_scale(scale: Any) -> Scale:
    """Check a scale and return it as 'auto', a number, or a tuple of one per axis; each must be at least 1."""
    if scale == "auto":
        return "auto"
    try:
        numbers = (
            tuple(map(float, scale)) if isinstance(scale, Sequence) and not isinstance(scale, str) else float(scale)
        )
    except (TypeError, ValueError):
        numbers = 0.0
    if any(isinstance(n, bool) for n in (scale if isinstance(scale, Sequence) else [scale])):
        numbers = 0.0  # Python counts True as 1
    each = numbers if isinstance(numbers, tuple) else (numbers,)
    if not 1 <= len(each) <= 3 or not all(1 <= n < math.inf for n in each):
        numbers_only = f"scale={shown(repr(scale), 80)} must be a number of at least 1, one per grid axis (at most 3)"
        raise RekernelError(numbers_only, Option(", or 'auto'", ""))  # the command has no word for it
    if max(each) > _LARGEST:
        raise RekernelError(
            f"scale={scale!r} is the requested size over the trained size, and {_LARGEST:g} is the limit",
            Option(f"; for a size in pixels write rekernel.diffusion.apply(pipe, size={scale!r}), or scale='auto'", ""),
        )
    return numbers


def factors_for(scale: Scale, size: Sequence[int], trained: Sequence[int] | None) -> tuple[float, ...]:
    """One factor per grid axis of `size`; a number applies to the last two, 'auto' compares with the trained size."""
    axes = len(size)
    if isinstance(scale, str):
        if trained is None:
            raise RekernelError("scale='auto' needs the trained size, and the network's config has none; pass a number")
        missing = axes - len(trained)
        return (1.0,) * missing + enlargement(size[missing:], trained)
    if isinstance(scale, Sequence):
        if len(scale) > axes:
            raise RekernelError(f"scale={scale} has {len(scale)} entries for a grid of {axes} axes")
        return (1.0,) * (axes - len(scale)) + tuple(map(float, scale))
    return (1.0,) * max(0, axes - 2) + (scale,) * min(axes, 2)


def above_trained(factors: Sequence[float], size: Sequence[int], trained: Sequence[int] | None) -> tuple[float, ...]:
    """The factors, or those of 'auto' where `factors` would reduce the picture below the trained size.

    Such a pass would be as wrong as the one that it is to correct: the network was not trained on smaller pictures.

    Examples
    --------
    >>> above_trained((2, 2), (128, 128), (64, 64)), above_trained((2, 2), (64, 64), (64, 64))
    ((2, 2), (1.0, 1.0))
    >>> above_trained((20, 20), (96, 96), (64, 64))
    (1.5, 1.5)
    """
    if trained is None or len(trained) > len(size):
        return tuple(factors)
    axes = len(trained)
    low = [n / f for n, f in zip(size[-axes:], factors[-axes:], strict=True)]
    if math.prod(low) >= _AREA[0] * math.prod(trained):
        return tuple(factors)
    return tuple(factors[:-axes]) + enlargement(size[-axes:], trained)


def enlargement(size: Sequence[int], trained: Sequence[int]) -> tuple[float, ...]:
    """The factors of scale='auto': by how much `size` is larger than the trained size, for each axis.

    Networks like SDXL are trained at many shapes of one area (1024x1024, 1152x896, 1344x768, ... 2048x512), but their
    configs contain only the square. With r = size / trained for each axis, and area = the product of r:

    1. *Another shape of the trained area* counts as trained size: area at most 1.05, sides at most 4 : 1. Every factor
       is 1.
    2. *Such a shape k times larger*, k = 2, 3, ...: every axis is enlarged (r > 1), not all equally, and size / k is a
       shape by rule 1 with at least 0.85 of the area. Every factor is k. Factors of r would squeeze the picture into a
       square for the low-resolution pass, but the network was not trained on squeezed pictures. A whole k also makes
       whole blocks.
    3. *Otherwise* each axis has its own factor, max(1, r). For a trained size of 512x512, a panorama of 1024x512 is
       enlarged along one axis.

    The bounds include the sizes of SDXL, PixArt and Sana (area .90 to 1, sides up to 4 : 1), with a margin.

    Examples
    --------
    >>> enlargement((128, 128), (64, 64)), enlargement((64, 128), (64, 64)), enlargement((96, 64), (64, 64))
    ((2.0, 2.0), (1.0, 2.0), (1.5, 1.0))
    >>> enlargement((1152, 896), (1024, 1024)), enlargement((2304, 1792), (1024, 1024))
    ((1.0, 1.0), (2.0, 2.0))
    """
    ratios = [n / m for n, m in zip(size, trained, strict=True)]
    area = math.prod(ratios)
    if max(size) <= _ELONGATED * min(size):
        if area <= _AREA[1]:
            return (1.0,) * len(ratios)
        whole = math.ceil((area / _AREA[1]) ** (1 / len(ratios)))
        shaped = max(ratios) > _SAME_SHAPE * min(ratios) > _SAME_SHAPE
        if shaped and area / whole ** len(ratios) >= _AREA[0]:
            return (float(whole),) * len(ratios)
    return tuple(max(1.0, r) for r in ratios)


def low_size(size: Sequence[int], factors: Sequence[float], multiple: int = 1) -> tuple[int, ...]:
    """Pixels of the reduced grid: rounded to whole numbers, and along the last two axes to multiples of `multiple`.

    Examples
    --------
    >>> low_size((8, 20, 24), (1, 2, 2)), low_size((8, 20, 24), (1, 2, 2), multiple=4)
    ((8, 10, 12), (8, 8, 12))
    """
    unit = [1] * (len(size) - 2) + [multiple] * min(2, len(size))
    pairs = zip(size, factors, unit, strict=True)
    return tuple(n if f == 1 else min(n, u * max(1, round(n / f / u))) for n, f, u in pairs)
