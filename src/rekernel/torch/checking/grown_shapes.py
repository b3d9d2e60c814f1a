"""Compare sizes, cuts and groups of a grid before and after it grows.

Scope: numbers. Not here: torch functions (see `checking.grown_functions`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

Sizes = tuple[int, int]
"""The size of an axis before and after."""
Shapes = tuple[Sequence[int], Sequence[int]]


def even(before: int, after: int, sizes: Sizes) -> bool:
    """Whether a number of pixels grew as the grid did, to the next whole pixel.

    Examples
    --------
    >>> even(3, 6, (8, 16)), even(3, 3, (8, 16)), even(0, 0, (8, 16))
    (True, False, True)
    """
    return abs(after - before * sizes[1] / sizes[0]) < 1


def cut_evenly(cuts: Sequence[Sizes], sizes: Sizes, scales: Sequence[float]) -> bool:
    """Whether the cuts on both sides of an axis grew with it, or cut the tokens in front of an image (or behind it).

    Parameters
    ----------
    cuts : ((before, after), (before, after))
        Entries cut off the start and the end.
    sizes : (before, after)
    scales : sequence of float
        Scales of the image; an axis of tokens grows by a product of some of them.

    Examples
    --------
    >>> cut_evenly(((4, 4), (4, 4)), (32, 64), (2.0, 2.0)), cut_evenly(((4, 8), (4, 8)), (32, 64), (2.0, 2.0))
    (False, True)
    >>> cut_evenly(((1, 1), (0, 0)), (17, 65), (2.0, 2.0)), cut_evenly(((0, 0), (16, 64)), (17, 65), (2.0, 2.0))
    (True, True)
    """
    if all(even(before, after, sizes) for before, after in cuts):
        return True
    factors = {math.prod(some) for count in range(1, len(scales) + 1) for some in itertools.combinations(scales, count)}
    (left, new_left), (right, new_right) = cuts
    tokens = (left, new_left) if right == new_right == 0 else (sizes[0] - right, sizes[1] - new_right)
    if (left and right) or tokens[0] != tokens[1]:
        return False
    return any(abs((sizes[0] - tokens[0]) * factor - (sizes[1] - tokens[1])) < 1e-6 for factor in factors)


def group_of_pixels(inputs: Shapes, outputs: Shapes, batch: int = 1) -> int:
    """Number of pixels that a reshape puts into axes that do not grow; 1 where it puts none.

    The pictures of a batch, which lie beside each other where windows were folded into the batch, are not counted.

    Parameters
    ----------
    inputs, outputs : (before, after)
        Shapes of the argument and of the result at both sizes.

    Examples
    --------
    >>> group_of_pixels(((1, 8, 8), (1, 16, 16)), ((1, 4, 2, 4, 2), (1, 8, 2, 8, 2)))
    4
    >>> group_of_pixels(((1, 4, 8, 8), (1, 4, 16, 16)), ((1, 2, 2, 64), (1, 2, 2, 256)))
    1
    """
    if len(inputs[0]) != len(inputs[1]) or len(outputs[0]) != len(outputs[1]):
        return 1
    total = 1
    for ins, outs in _groups(inputs[0], outputs[0]):
        if all(inputs[0][i] == inputs[1][i] for i in ins):
            continue
        fixed_in, fixed_out = (
            math.prod(shapes[0][i] for i in axes if shapes[0][i] == shapes[1][i])
            for shapes, axes in ((inputs, ins), (outputs, outs))
        )
        if outs[0] == 0 and outputs[0][0] == batch != inputs[0][0]:
            fixed_out //= batch
        if fixed_out > fixed_in and fixed_out % fixed_in == 0:
            total *= fixed_out // fixed_in
    return total


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes of two shapes that hold the same entries, as short as possible."""
    groups, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        ins, outs = [i], [j]
        a, b = before[i], after[j]
        while a != b:
            if a < b and ins[-1] + 1 < len(before):
                ins.append(ins[-1] + 1)
                a *= before[ins[-1]]
            elif outs[-1] + 1 < len(after):
                outs.append(outs[-1] + 1)
                b *= after[outs[-1]]
            else:
                break
        groups.append((ins, outs))
        i, j = ins[-1] + 1, outs[-1] + 1
    return groups


def parts_by_axis(item: Any, axes: int) -> list[Any]:
    """The parts of an index, one for each axis of the tensor, without the new axes that None adds.

    Examples
    --------
    >>> parts_by_axis((Ellipsis, None, slice(4, -4)), 3)
    [slice(None, None, None), slice(None, None, None), slice(4, -4, None)]
    """
    parts = [part for part in (item if isinstance(item, tuple) else (item,)) if part is not None]
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    filled = axes - (len(parts) - 1)
    return [*parts[:at], *[slice(None)] * filled, *parts[at + 1 :]]
