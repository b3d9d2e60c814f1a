"""Turn what a caller asks for, a scale or a size in pixels, into a scale, and refuse a size that was typed as a scale.

Scope: numbers. Not here: where the trained size is read (see `position_grid`, `formats.trained_size`), and the limits
of any scale (see `allowed_values`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import Option, RekernelError
from ..escape import shown
from ..resampling.geometry import TYPED
from .settings import Scale, plain_scale

Sizes = tuple[int, ...]


def parsed_size(size: Any, called: str = "size") -> Sizes:
    """A size in pixels: one number for all axes, or one per axis in the order of a tensor's axes, (height, width).

    Parameters
    ----------
    size : int, sequence of int, or text as people write the size of an image: '1024x768', width first
    called : the argument, for messages

    Examples
    --------
    >>> parsed_size(384), parsed_size((384, 512)), parsed_size("512x384")
    ((384,), (384, 512), (384, 512))
    """
    value = plain_scale(size)
    if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,9})(?:[xX](\d{1,9}))?", value.strip(), re.ASCII)):
        value = tuple(int(n) for n in (found[2], found[1]) if n)
    sides = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(sides) <= 3 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides):
        raise RekernelError(
            f"{called}={shown(repr(size), 80)} is not a size in pixels; write 384, (height, width) or '512x384' (width "
            f"first)"
        )
    return sides


def ratio(size: Sizes, trained: Sizes) -> Scale:
    """The scale between two sizes; a number where both have one, else one per axis.

    Examples
    --------
    >>> ratio((384,), (224,)) == 384 / 224, ratio((768, 1024), (512,))
    (True, (1.5, 2))
    """
    axes = max(len(size), len(trained))
    if len(size) not in (1, axes) or len(trained) not in (1, axes):
        raise RekernelError(
            f"size={size} and from_size={trained} have {len(size)} and {len(trained)} axes; give both for the same ones"
        )
    new, old = (sides * axes if len(sides) == 1 else sides for sides in (size, trained))
    each = tuple(int(n / m) if n % m == 0 else n / m for n, m in zip(new, old, strict=True))
    return each if axes > 1 else each[0]


def asked_scale(
    scale: Scale | None, size: Any, from_size: Any, known: Callable[[], tuple[int, int] | None] = lambda: None,
    *, typed: bool = True,
) -> Scale:  # fmt: skip
    """The scale that was asked for, as a scale or as sizes.

    Parameters
    ----------
    scale : float or sequence of float, or None
    size, from_size : as for `parsed_size`, or None
        The new size and the trained one.
    known : callable
        Returns the trained size where `from_size` is None, or None where nothing tells it.
    typed : bool
        Whether a person may have typed the scale.

    Raises
    ------
    RekernelError
        For both or neither, and for a size that was typed as a scale.

    Examples
    --------
    >>> asked_scale(2, None, None), asked_scale(None, 448, 224), asked_scale(None, 384, None, lambda: (192, 192))
    (2, 2, (2, 2))
    >>> asked_scale((1024, 1024), None, None)
    Traceback (most recent call last):
    rekernel.errors.RekernelError: scale=(1024, 1024) is new pixels per old pixel; did you mean size=(1024, 1024)?
    """
    if scale is not None:
        if size is not None or from_size is not None:
            raise RekernelError("scale= and size= both set the scale; give only one of them")
        if typed:
            check_typed(plain_scale(scale))
        return scale
    if size is None:
        raise RekernelError("the scale is missing; pass scale=2, or size=384 with from_size=224, the trained size")
    new = parsed_size(size)
    old = known() if from_size is None else parsed_size(from_size, "from_size")
    if old is None:
        raise RekernelError(
            "nothing beside the weights tells the trained size, which the scale is counted from; also pass ",
            Option("from_size=224", "--from 224x224"),
        )
    return ratio(new, old)


def check_typed(scale: Any, trained: Sequence[int] = ()) -> None:
    """Raise where a scale must be a size: above 16, or as large as the trained image.

    Parameters
    ----------
    trained : pixels of the trained image, where they are known
    """
    each = scale if isinstance(scale, tuple) else (scale,)
    if not each or not all(isinstance(s, int | float) and 0 < s < math.inf for s in each):
        return  # `check_scale` says what is wrong
    sides = each * len(trained) if len(each) == 1 else each
    images = 0 < len(sides) == len(trained) and all(s >= n and s > 8 for s, n in zip(sides, trained, strict=True))
    if max(each) <= TYPED and not images:
        return
    typed = "x".join(f"{s:g}" for s in reversed(each if len(each) > 1 else each * 2))
    text = f"({', '.join(f'{s:g}' for s in each)})" if isinstance(scale, tuple) else f"{scale:g}"
    raise RekernelError(
        f"scale={text} is new pixels per old pixel; did you mean ", Option(f"size={text}", f"--to {typed}"), "?"
    )
