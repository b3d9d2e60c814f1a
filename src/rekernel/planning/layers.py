"""Describe layers for the rules, and hold what the rules return.

Scope: records of tensors, spatial axes and flattened grids. Not here: what a layer becomes (see `planning.rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..plan.changes import AxisGeometry, LayerChange, ModuleChange
from ..resampling.arrays import flattened_grid

NOT_RESCALED = "no spatial kernel (bias, norm, 1x1), or its input keeps its trained size"
"""The reason in a plan of a tensor that no planner had to look at."""


class Unclear(Exception):  # noqa: N818 - not an error: becomes a note in the plan
    """The shape and name of a tensor do not say what it is, so it stays. The arguments are parts of a note."""


@dataclass(frozen=True)
class Weight:
    """The tensor that a rule is applied to.

    name : full name of the tensor
    dtype : safetensors name of its dtype
    shape : its shape
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def kept(self, reason: str) -> LayerChange:
        """The entry of a plan that leaves the tensor as it is.

        Examples
        --------
        >>> Weight("fc.bias", "F32", (4,)).kept("bias").kind
        'keep'
        """
        return LayerChange.unchanged(self.name, self.dtype, self.shape, reason)


@dataclass(frozen=True)
class ConvAxis:
    """One spatial axis of a convolution or a pooling, as a planner saw it in the model or assumed it.

    geometry : kernel, stride, padding and dilation of the trained layer; the padding is all that lies in front of it
    scale_in, scale_out : new pixels per old pixel in the input and in the output of the layer
    size : pixels of the trained input before padding; None where only names are known
    output_padding : output padding of a transposed convolution
    offset : distance of the arriving features from their exact place, in new input pixels
    hangs_over : whether the last window of a pooling may hang over the right edge (`ceil_mode`)
    """

    geometry: AxisGeometry
    scale_in: float
    scale_out: float
    size: int | None = None
    output_padding: int = 0
    offset: float = 0.0
    hangs_over: bool = False

    @property
    def stays(self) -> bool:
        """Whether the layer keeps its geometry along this axis: its input keeps its size, or it is pointwise."""
        pointwise = self.geometry.kernel == 1 and self.geometry.stride == 1
        return self.scale_in == 1 or (pointwise and self.scale_in == self.scale_out)


@dataclass(frozen=True)
class Became:
    """What a rule makes of a layer with weights.

    change : entry of the layer in the plan
    offset : distance of the features that the layer gives from their exact place, in new input pixels of the layer, one
        number per spatial axis. Taps that are not interpolated cannot lie between pixels; other taps make up for the
        offset of the features that arrive
    """

    change: LayerChange
    offset: tuple[float, ...]


@dataclass(frozen=True)
class PoolBecame:
    """What a rule makes of a pooling; the fields are those of `Became`."""

    change: ModuleChange
    offset: tuple[float, ...]


@dataclass(frozen=True)
class Cells:
    """One factor of a flattened axis: the channels, or the pixels along one direction.

    old, new : number of entries before and after rescaling
    """

    old: int
    new: int


def grid_cells(size: int, grid: Sequence[int], new_grid: Sequence[int], order: str) -> tuple[Cells, ...]:
    """The factors of an axis whose `size` entries are a flattened (C, *spatial) grid, in the order of flattening.

    Parameters
    ----------
    order : {'channels-first', 'channels-last'}

    Raises
    ------
    RekernelError
        If the grid does not have `size` entries.

    Examples
    --------
    >>> grid_cells(12, (3, 4), (3, 8), "channels-last")
    (Cells(old=4, new=8), Cells(old=3, new=3))
    """
    old, new, _ = flattened_grid(size, grid, new_grid, order)
    return tuple(map(Cells, old, new))
