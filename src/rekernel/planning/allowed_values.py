"""Check the values of settings, whichever layer uses them, so that a slip is named at once.

Scope: numbers and sizes that a caller passed. Not here: the names of methods (see `resampling.methods`), and patterns
(see `patterns`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from ..errors import Option, RekernelError
from ..escape import shown
from ..messages.note import Note
from ..patterns import by_pattern
from ..resampling.limits import check_a
from ..resampling.methods import KEYS_A, TAPS_RULES
from ..text import dims, scale_text

LARGEST_SCALE = 64
"""A larger scale, or one below 1/64, is a size or a slip: no use is known, and memory would not do."""

LARGEST_IMAGE = 1 << 30
"""Pixels of an image that a rescaled model is run on once: as floats, its first feature maps take 100 GB and more."""

SCALE_1 = Note(
    "the scale is 1, so nothing changes; pass the new pixels per old pixel, such as ", Option("scale=2", "--scale 2")
)
"""The note of a plan for a scale of 1."""


def is_one(scale: Any) -> bool:
    """Whether a scale is 1 along every axis.

    Examples
    --------
    >>> is_one(1), is_one((1.0, 1.0)), is_one((1, 2))
    (True, True, False)
    """
    return all(s == 1 for s in (scale if isinstance(scale, tuple) else (scale,)))


def check_scale(scale: Any, size: Sequence[int] = ()) -> None:
    """Raise if a scale is not one, or so large that it must be a size.

    Parameters
    ----------
    scale : float, or a tuple with one per spatial axis
    size : sequence of int
        Size of the trained image, if it is known.

    Examples
    --------
    >>> check_scale(224, (32, 32))
    Traceback (most recent call last):
    rekernel.errors.RekernelError: scale=224 is new pixels per old pixel, and 64 is the limit; for an image of 224
    pixels pass the new size divided by the trained one: 224/32 = 7
    """
    scales = scale if isinstance(scale, tuple) else (scale,)
    whole = (isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s) and s > 0 for s in scales)
    if not scales or not all(whole):
        raise RekernelError(f"scale={scale!r} must be a number above 0, or one per spatial axis")
    if max(max(scales), 1 / min(scales)) <= LARGEST_SCALE:
        new_sizes = [round(n * s) for n, s in zip(size, scales * (len(size) // len(scales)), strict=False)]
        if math.prod(new_sizes) > LARGEST_IMAGE:
            raise RekernelError(
                f"scale={_text(scales)} makes an image of {dims(new_sizes)} pixels from one of {dims(size)}, more "
                f"than memory holds; it is new pixels per old pixel"
            )
        return
    told = f"scale={_text(scales)} is new pixels per old pixel, and "
    if max(scales) <= LARGEST_SCALE:
        raise RekernelError(f"{told}1/{LARGEST_SCALE} is the least")
    large = max(range(len(scales)), key=lambda i: scales[i])
    new, old = scales[large], size[large % len(size)] if size else 0
    advice = (
        f"{told}{LARGEST_SCALE} is the limit; for an image of {new:g} pixels pass the new size divided by the trained "
        f"one"
    )
    if old:
        raise RekernelError(f"{advice}: {new:g}/{old} = {new / old:g}")
    both = Option("", f", or --from 32x32 --to {new:g}x{new:g}")
    raise RekernelError(f"{advice} ({new:g}/32 = {new / 32:g}, where that is 32)", both)


def _text(scales: tuple[float, ...]) -> str:
    """The scales as they are typed, one number where they are equal."""
    return scale_text(scales if len(set(scales)) > 1 else scales[0])


def layer_modes(modes: object) -> dict[str, Any]:
    """The modes of single layers that a caller passed; raise where they are not a dict.

    Examples
    --------
    >>> layer_modes({"conv1": "absorb"}), layer_modes(None)
    ({'conv1': 'absorb'}, {})
    """
    return by_pattern(modes, "modes", "{'conv1*': 'absorb'}")


def check_numbers(*, taps: Any = None, a: Any = KEYS_A, smoothness: Any = None) -> None:
    """Raise if a setting of a method has a value that no method takes, whether or not a layer uses it.

    Examples
    --------
    >>> check_numbers(taps="fulll")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: taps='fulll' is neither a number of taps, 1 or more, nor one of full, same-extent
    """
    whole = isinstance(taps, Integral) and not isinstance(taps, bool) and int(taps) >= 1
    if taps is not None and not whole and not (isinstance(taps, str) and taps in TAPS_RULES):
        raise RekernelError(
            f"taps={shown(repr(taps), 80)} is neither a number of taps, 1 or more, nor one of {', '.join(TAPS_RULES)}"
        )
    if not _number(a):
        raise RekernelError(f"a={shown(repr(a), 80)} is not a number; it is the parameter of the cubic filter, -0.5")
    check_a(a)
    if smoothness is not None and not (_number(smoothness) and 0 <= smoothness < 1):
        raise RekernelError(f"smoothness={shown(repr(smoothness), 80)} must be at least 0 and below 1")


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def rows_of_a_picture(grid: Sequence[int]) -> bool:
    """Whether a grid of channels and one size may be a picture whose one channel was left out.

    Examples
    --------
    >>> rows_of_a_picture((28, 28)), rows_of_a_picture((3, 28)), rows_of_a_picture((1, 28, 28))
    (True, False, False)
    """
    return len(grid) == 2 and grid[0] > 4 and 1 / 4 <= grid[0] / grid[1] <= 4


def sizes(grid: Any) -> bool:
    """Whether a value is a list of sizes.

    Examples
    --------
    >>> sizes((16, 8)), sizes("16"), sizes((0, 8))
    (True, False, False)
    """
    several = isinstance(grid, Sequence) and not isinstance(grid, str) and len(grid) > 0
    return several and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in grid)
