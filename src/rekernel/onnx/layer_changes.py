"""Describe the layers of a graph for the shared rules: kernel windows from attributes, grids from axes.

Scope: kernels, paddings and axes of ONNX nodes. Not here: what becomes of a layer (see `planning.rules`), nor the graph
itself (see `onnx.weight_operators` and `onnx.shape_operators`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..plan.changes import AxisGeometry, LayerChange, Mode
from ..planning.layers import Became, Cells, ConvAxis, Weight
from ..planning.roles import ABSORB
from ..planning.rules import convolution, is_patch, reads_grid, values
from ..planning.settings import Settings
from ..resampling.geometry import is_whole
from .axes import Axes, Part

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class KernelWindow:
    """The geometry of a convolution or pooling, one entry per spatial axis.

    kernel, stride, dilation : kernel size, stride and dilation in pixels
    padding : (left, right), of the node itself and of a Pad node in front of it together
    size : pixels of the input
    extra : output padding of a transposed convolution
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pads
    size: tuple[int, ...]
    extra: tuple[int, ...] = ()

    def geometry(self) -> tuple[AxisGeometry, ...]:
        """The geometry in the form that a plan has."""
        return tuple(map(AxisGeometry, self.kernel, self.stride, self.padding, self.dilation))

    def axes(
        self, arriving: Sequence[float], leaving: Sequence[float], offset: Sequence[float] = ()
    ) -> list[ConvAxis]:  # fmt: skip
        """The axes in the form that the rules take.

        Parameters
        ----------
        arriving, leaving : sequence of float
            Scales of the grid before and after the layer.
        offset : sequence of float, optional
            Distance of the arriving features from their place.
        """
        return [
            ConvAxis(geometry, before, after, size, self._right(axis), offset[axis] if offset else 0.0)
            for axis, (geometry, before, after, size) in enumerate(
                zip(self.geometry(), arriving, leaving, self.size, strict=True)
            )
        ]

    def _right(self, axis: int) -> int:
        """Output padding along an axis, if the padding of both sides were that of the left side."""
        left, right = self.padding[axis]
        return (self.extra[axis] if self.extra else 0) + left - right


def conv_change(
    weight: Weight,
    window: KernelWindow,
    scales: Sequence[float],
    mode: Mode,
    settings: Settings,
    *,
    transposed: bool = False,
    aligned: tuple[bool, bool] = (False, False),
    offset: Sequence[float] = (),
) -> Became:
    """The change of a convolution, which supersamples or absorbs. A dilated one keeps its weight, and its taps spread.

    Parameters
    ----------
    aligned : (bool, bool)
        As for `planning.rules.convolution`.
    offset : sequence of float, optional
        Distance of the arriving features from their place, in new pixels, one number per spatial axis.
    """
    leaving = [1.0] * len(scales) if mode == ABSORB else scales
    axes = window.axes(scales, leaving, offset)
    patch = mode == ABSORB and is_patch(axes)
    plain = settings.gain == "dc" and settings.taps in (None, "full") and not transposed and not patch
    dilated = settings.method == "dilate" and plain and all(map(is_whole, scales))
    what = f"{'x'.join(map(str, window.size))} grid"
    if patch:
        what = f"patches of {'x'.join(map(str, window.kernel))} pixels"
    return convolution(
        weight, axes, settings, first=2, mode=mode, transposed=transposed, factored=dilated, aligned=aligned,
        reason=f"{what}: {mode}s",
    )  # fmt: skip


def linear_change(weight: Weight, axis: int, read: Sequence[Part], settings: Settings) -> LayerChange:
    """The change of a matrix whose `axis` reads a flattened grid, which consists of these parts in order."""
    grid = "x".join(str(part.size) for part in read)
    return reads_grid(weight, axis, _cells(read), settings, f"fully connected: reads a {grid} grid")


def values_change(weight: Weight, axes: Axes, settings: Settings) -> LayerChange:
    """The change of a constant with an entry for every pixel, such as position embeddings."""
    reason = "a value for every pixel: no coefficient"
    for axis, parts in enumerate(axes):
        if parts[0].grid:
            return values(weight, {axis: _cells(parts[0].grid)}, settings, reason, prefix=parts[0].ahead)
    return values(weight, {axis: _cells(parts) for axis, parts in enumerate(axes)}, settings, reason)


def _cells(parts: Sequence[Part]) -> list[Cells]:
    return [Cells(part.size, part.new) for part in parts]
