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


def group_of_pixels(inputs: Shapes, outputs: Shapes, batch: int = 1, scales: Sequence[float] = ()) -> int:
    """Number of pixels that a reshape puts into axes that do not grow; 1 where it puts none.

    A fixed axis in front of the growing one holds parts of the grid, which grow with it; only one behind holds pixels.
    The pictures of a batch, which lie beside each other where windows were folded into the batch, are not counted, and
    neither is an axis of the image that keeps its size.

    Parameters
    ----------
    inputs, outputs : (before, after)
        Shapes of the argument and of the result at both sizes.
    scales : sequence of float, optional
        New pixels per old pixel, one per axis of the image.

    Examples
    --------
    >>> group_of_pixels(((1, 8, 8), (1, 16, 16)), ((1, 4, 2, 4, 2), (1, 8, 2, 8, 2)))
    4
    >>> group_of_pixels(((1, 4, 8, 8), (1, 4, 16, 16)), ((1, 2, 2, 64), (1, 2, 2, 256)))
    1
    >>> tokens, rows = ((1, 64, 5), (1, 128, 5)), ((1, 8, 8, 5), (1, 8, 16, 5))
    >>> group_of_pixels(tokens, rows), group_of_pixels(tokens, ((1, 8, 8, 5), (1, 16, 8, 5)), scales=(2.0, 1.0))
    (1, 1)
    """
    if len(inputs[0]) != len(inputs[1]) or len(outputs[0]) != len(outputs[1]):
        return 1
    total = 1
    for ins, outs in _groups(inputs[0], outputs[0]):
        if all(inputs[0][i] == inputs[1][i] for i in ins) or _is_grid(outputs, outs, scales):
            continue
        fixed_in, fixed_out = (
            math.prod(_behind_growing(shapes, axes)) for shapes, axes in ((inputs, ins), (outputs, outs))
        )
        if ins[0] == 0 and outputs[0][0] != batch and batch in _behind_growing(outputs, outs):
            fixed_out //= batch
        if fixed_out > fixed_in and fixed_out % fixed_in == 0:
            total *= fixed_out // fixed_in
    return total


def _behind_growing(shapes: Shapes, axes: Sequence[int]) -> list[int]:
    """The sizes of those axes that stay and lie behind one that grows."""
    grows = [shapes[0][axis] != shapes[1][axis] for axis in axes]
    return [shapes[0][axis] for number, axis in enumerate(axes) if not grows[number] and any(grows[:number])]


def _is_grid(shapes: Shapes, axes: Sequence[int], scales: Sequence[float]) -> bool:
    """Whether axes grow as those of the image do, of which some keep their size."""
    ratios = [shapes[1][axis] / shapes[0][axis] for axis in axes]
    return len(ratios) == len(scales) and all(
        math.isclose(r, s, rel_tol=1e-9) for r, s in zip(ratios, scales, strict=True)
    )


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
