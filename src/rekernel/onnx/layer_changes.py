"""Layers of a graph as the shared rules take them: windows from attributes, cells from axes.

Scope: kernels, paddings and axes of ONNX nodes. Not here: what becomes of a layer (see `planning.rules`), nor the graph
itself (see `weight_operators` and `shape_operators`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..plan.changes import AxisGeometry, LayerChange, Mode
from ..planning.layers import Became, Cells, ConvAxis, Weight
from ..planning.roles import ABSORB
from ..planning.rules import convolution, reads_grid, values
from ..planning.settings import Settings
from .axes import Axes, Part

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """How a convolution or pooling runs, one entry per spatial axis.

    kernel, stride, dilation : in pixels
    padding : (left, right) of the node itself and of a Pad node in front of it
    size : pixels of its input
    extra : of a transposed convolution, output_padding
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pads
    size: tuple[int, ...]
    extra: tuple[int, ...] = ()

    def geometry(self) -> tuple[AxisGeometry, ...]:
        """As a plan has it."""
        return tuple(map(AxisGeometry, self.kernel, self.stride, self.padding, self.dilation))

    def axes(self, arriving: Sequence[float], leaving: Sequence[float]) -> list[ConvAxis]:
        """As the rules take them, with the scales of the grid before and after the layer."""
        return [
            ConvAxis(geometry, before, after, size, self._right(axis))
            for axis, (geometry, before, after, size) in enumerate(
                zip(self.geometry(), arriving, leaving, self.size, strict=True)
            )
        ]

    def _right(self, axis: int) -> int:
        """Output padding along an axis: the node's own where both sides are cropped alike."""
        left, right = self.padding[axis]
        return (self.extra[axis] if self.extra else 0) + left - right


def conv_change(
    weight: Weight, window: Window, scales: Sequence[float], mode: Mode, settings: Settings, *, transposed: bool = False
) -> Became:
    """A convolution at `scales`, that supersamples or absorbs."""
    leaving = [1.0] * len(scales) if mode == ABSORB else scales
    return convolution(
        weight, window.axes(scales, leaving), settings, first=2, mode=mode, transposed=transposed,
        reason=f"{'x'.join(map(str, window.size))} grid: {mode}s",
    )  # fmt: skip


def linear_change(weight: Weight, axis: int, read: Sequence[Part], settings: Settings) -> LayerChange:
    """A matrix whose `axis` reads a flattened grid, made of these parts in order."""
    grid = "x".join(str(part.size) for part in read)
    return reads_grid(weight, axis, _cells(read), settings, f"fully connected: reads a {grid} grid")


def values_change(weight: Weight, axes: Axes, settings: Settings) -> LayerChange:
    """A constant with an entry for every pixel, such as position embeddings."""
    cells = {axis: _cells(parts) for axis, parts in enumerate(axes)}
    return values(weight, cells, settings, "a value for every pixel: no coefficient")


def _cells(parts: Sequence[Part]) -> list[Cells]:
    return [Cells(part.size, part.new) for part in parts]
