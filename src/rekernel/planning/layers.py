"""Layers as the rules take them, and what the rules give back.

Scope: records of tensors, spatial axes and flattened grids. Not here: what a layer becomes (see `rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..plan.changes import AxisGeometry, LayerChange, ModuleChange
from ..resampling.arrays import flattened_grid


@dataclass(frozen=True)
class Weight:
    """The tensor that a rule speaks of.

    name, shape : of the tensor
    dtype : as safetensors names it
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def kept(self, reason: str) -> LayerChange:
        """The tensor stays as it is.

        Examples
        --------
        >>> Weight("fc.bias", "F32", (4,)).kept("bias").kind
        'keep'
        """
        return LayerChange.unchanged(self.name, self.dtype, self.shape, reason)


@dataclass(frozen=True)
class ConvAxis:
    """One spatial axis of a convolution or a pooling, as it was seen or as it is assumed.

    geometry : of the trained layer: kernel, stride, all of the padding in front of it, dilation
    scale_in, scale_out : new pixels per old one, of its input and of its output
    size : old pixels that arrive, before padding; None where only names are known
    output_padding : of a transposed convolution
    """

    geometry: AxisGeometry
    scale_in: float
    scale_out: float
    size: int | None = None
    output_padding: int = 0

    @property
    def stays(self) -> bool:
        """Whether nothing changes along the axis: no scale arrives, or the layer is pointwise there."""
        return self.scale_in == 1 or (self.geometry.kernel == 1 and self.geometry.stride == 1)


@dataclass(frozen=True)
class Became:
    """What a layer becomes.

    change : its entry in the plan
    offset : per spatial axis, by how many new input pixels its taps lie beside their exact place, because taps that are
        not interpolated cannot lie between pixels; 0 where they lie exactly
    """

    change: LayerChange
    offset: tuple[float, ...]


@dataclass(frozen=True)
class PoolBecame:
    """What a pooling becomes; the fields are those of `Became`."""

    change: ModuleChange
    offset: tuple[float, ...]


@dataclass(frozen=True)
class Cells:
    """One factor of a flattened axis: channels, or pixels along one direction.

    old, new : how many before and after
    """

    old: int
    new: int


def grid_cells(size: int, grid: Sequence[int], new_grid: Sequence[int], order: str) -> tuple[Cells, ...]:
    """The cells of an axis of `size` entries that is a flattened (C, *spatial) grid, in the order of flattening.

    Parameters
    ----------
    order : {'channels-first', 'channels-last'}

    Raises
    ------
    RekernelError
        Where the grid does not have `size` cells.

    Examples
    --------
    >>> grid_cells(12, (3, 4), (3, 8), "channels-last")
    (Cells(old=4, new=8), Cells(old=3, new=3))
    """
    old, new, _ = flattened_grid(size, grid, new_grid, order)
    return tuple(map(Cells, old, new))
