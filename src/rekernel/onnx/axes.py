"""Describe where a grid that grows lies in a tensor: each axis is a row-major product of parts, each with its scale.

Scope: shapes, and how a reshape regroups them, as pure functions. Not here: ONNX and its operators (see
`onnx.shape_operators`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import RekernelError
from ..resampling.geometry import new_size


@dataclass(frozen=True)
class Part:
    """A factor of an axis.

    size : number of entries before rescaling
    scale : scale of the grid that the part belongs to; 1 for channels, batches and tokens that stay
    ahead, grid : for tokens of which `ahead` are not pixels (class tokens), the parts of the pixels behind them
    """

    size: int
    scale: float = 1.0
    ahead: int = field(default=0, repr=False)
    grid: tuple[Part, ...] = field(default=(), repr=False)

    @property
    def new(self) -> int:
        """The number of entries after rescaling."""
        return self.ahead + math.prod(part.new for part in self.grid) if self.grid else new_size(self.size, self.scale)


Axis = tuple[Part, ...]
Axes = tuple[Axis, ...]


def plain(shape: Sequence[int]) -> Axes:
    """The axes of a tensor of which no axis grows.

    Examples
    --------
    >>> plain((2, 3))
    ((Part(size=2, scale=1.0),), (Part(size=3, scale=1.0),))
    """
    return tuple((Part(n),) for n in shape)


def image(shape: Sequence[int], scales: Sequence[float]) -> Axes:
    """The axes of an image (N, C, *spatial) whose spatial axes grow by these scales.

    Examples
    --------
    >>> new_shape(image((1, 3, 8, 8), (2.0, 1.5)))
    (1, 3, 16, 12)
    """
    return (*plain(shape[:2]), *((Part(n, s),) for n, s in zip(shape[2:], scales, strict=True)))


def tokens(ahead: int, axis: Axis) -> Axis:
    """The axis of the pixels of `axis` behind `ahead` tokens that are not pixels.

    Raises
    ------
    RekernelError
        If the axis has entries besides the pixels.

    Examples
    --------
    >>> [(part.size, part.new) for part in tokens(1, (Part(4, 2.0), Part(4, 2.0)))]
    [(17, 65)]
    """
    if len(axis) == 1 and axis[0].grid:
        ahead, axis = ahead + axis[0].ahead, axis[0].grid
    if any(part.scale == 1 and part.size > 1 for part in axis):
        raise RekernelError("concatenates other tokens with channels of a grid that grows")
    return (Part(ahead + math.prod(part.size for part in axis), scale_of(axis), ahead, axis),)


def scale_of(axis: Axis) -> float:
    """New entries per old entry along an axis."""
    return math.prod(part.scale for part in axis)


def grows(axes: Axes) -> bool:
    """Whether any axis grows.

    Examples
    --------
    >>> grows(plain((1, 3))), grows(image((1, 1, 4), (2.0,)))
    (False, True)
    """
    return any(part.scale != 1 for axis in axes for part in axis)


def old_shape(axes: Axes) -> tuple[int, ...]:
    """The shape before rescaling."""
    return tuple(math.prod(part.size for part in axis) for axis in axes)


def new_shape(axes: Axes) -> tuple[int, ...]:
    """The shape after rescaling."""
    return tuple(math.prod(part.new for part in axis) for axis in axes)


def regrouped(axes: Axes, shape: Sequence[int]) -> Axes:
    """The axes after a reshape to `shape` (in old sizes). Parts keep their order; a part that grows cannot be split.

    Raises
    ------
    RekernelError
        If a part that grows would be split, as for windows or patches made by reshaping.

    Examples
    --------
    >>> new_shape(regrouped(image((1, 4, 8, 8), (2.0, 2.0)), (1, 2, 128)))
    (1, 2, 512)
    >>> new_shape(regrouped(regrouped(image((1, 4, 8, 8), (2.0, 2.0)), (1, 2, 128)), (1, 4, 8, 8)))
    (1, 4, 16, 16)
    """
    rest = [part for axis in axes for part in axis if part.size != 1 or part.scale != 1]
    result: list[list[Part]] = []
    for size in shape:
        taken: list[Part] = []
        needed = size
        while needed > 1:
            if not rest or needed == 0:
                raise RekernelError(
                    f"reshapes {old_shape(axes)} to {tuple(shape)}, which has another number of entries"
                )
            part = rest.pop(0)
            if needed % part.size == 0:
                taken.append(part)
                needed //= part.size
                continue
            if part.scale != 1 or part.size % needed:
                raise RekernelError(f"cuts a grid that grows into pieces: {old_shape(axes)} to {tuple(shape)}")
            taken.append(Part(needed))
            rest.insert(0, Part(part.size // needed))
            needed = 1
        result.append(taken)
    if rest:  # parts of size 1 that grow
        result[-1:] = [result[-1] + rest] if result else [rest]
    return tuple(_merged(axis) for axis in result)


def _merged(axis: list[Part]) -> Axis:
    """Join neighbouring parts that do not grow."""
    merged: list[Part] = []
    for part in axis:
        if merged and part.scale == 1 == merged[-1].scale:
            merged[-1] = Part(merged[-1].size * part.size)
        else:
            merged.append(part)
    return tuple(merged) or (Part(1),)


def broadcast(inputs: Sequence[Axes]) -> Axes:
    """The axes of the result of an elementwise operator.

    Raises
    ------
    RekernelError
        If two inputs grow differently along one axis.

    Examples
    --------
    >>> new_shape(broadcast([image((1, 3, 4, 4), (2, 2)), plain((3, 1, 1))]))
    (1, 3, 8, 8)
    """
    rank = max(map(len, inputs))
    padded = [((Part(1),),) * (rank - len(axes)) + axes for axes in inputs]
    result = []
    for position, column in enumerate(zip(*padded, strict=True)):
        wide = [axis for axis in column if math.prod(p.size for p in axis) > 1 or scale_of(axis) != 1]
        if len({new_shape((axis,)) for axis in wide}) > 1:
            sizes = " and ".join(sorted({str(new_shape((axis,))[0]) for axis in wide}))
            raise RekernelError(f"combines grids that grow differently: axis {position} would be {sizes}")
        # Of axes with equal sizes, take the one with the most parts.
        result.append(max(wide, key=len) if wide else column[0])
    return tuple(result)
