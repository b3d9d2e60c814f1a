"""What weights and windows become on a grid that grows: changes of a plan, as the torch adapter makes them.

Knows kernels, paddings and views; nothing of graphs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RekernelError
from ..plan.changes import AxisGeometry, AxisOperator, LayerChange, ModuleChange
from ..planning.settings import Settings
from ..resampling.geometry import conv_geometry, conv_transpose_geometry, new_size, pool_geometry
from ..resampling.methods import canonical_method
from .axes import Axes, old_shape

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """How a convolution or pooling runs, one entry per spatial axis.

    padding : the node's own, (left, right)
    size : of its input
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


def conv_change(
    name: str, dtype: str, shape: tuple[int, ...], window: Window, scales: Sequence[float], mode: str,
    settings: Settings, *, transposed: bool = False,
) -> LayerChange:  # fmt: skip
    """A convolution at `scales`, that supersamples or absorbs."""
    if transposed and mode == "absorb":
        raise RekernelError("a transposed convolution enlarges and cannot absorb a scale")
    s = settings
    absorbs = mode == "absorb"
    patch = (
        absorbs and window.kernel == window.stride and set(window.dilation) == {1} and not any(map(any, window.padding))
    )
    method = s.grid_method() if patch else canonical_method(s.method)
    operators, after = [], []
    for axis, (scale, before) in enumerate(zip(scales, window.geometry(), strict=True)):
        k, stride, dilation = before.kernel, before.stride, before.dilation
        if scale == 1 or (k == 1 and stride == 1):
            after.append(before)
            continue
        if patch:
            new = new_size(k, scale, exact=True, what=f"a patch of {k} pixels")
            grown = AxisGeometry(new, new, (0, 0))
            operator = AxisOperator(
                axis + 2, k, grown.kernel, "grid", grown.kernel / k, method, s.gain, a=s.a, smoothness=s.smoothness
            )
        else:
            place = {"method": method, "taps": s.taps, "stride": stride, "dilation": dilation, "scale_in": scale}
            place |= {"scale_out": 1.0 if absorbs else scale, "size": window.size[axis]}
            if transposed:
                g = conv_transpose_geometry(k, padding=before.padding[0], output_padding=_right(window, axis), **place)  # type: ignore[arg-type]
            else:
                g = conv_geometry(k, padding=before.padding, **place)  # type: ignore[arg-type]
            grown = AxisGeometry(g.taps, g.stride, g.padding, 1)
            phase = 0.0 if method == "dilate" else g.phase
            operator = AxisOperator(
                axis + 2, k, g.taps, "kernel", scale, method, s.gain, phase, dilation, s.a, s.smoothness
            )
        operator.matrix()
        operators.append(operator)
        after.append(grown)
    new_sizes = {o.axis: o.new for o in operators}
    kind = "conv-transpose" if transposed else "patch" if patch else "conv"
    return LayerChange(
        name, dtype, shape, tuple(new_sizes.get(i, n) for i, n in enumerate(shape)), kind if operators else "keep",
        f"{'x'.join(map(str, window.size))} grid: {mode}s", view=shape if operators else (), operators=tuple(operators),
        geometry=window.geometry(), new_geometry=tuple(after),
    )  # fmt: skip


def _right(window: Window, axis: int) -> int:
    """A transposed convolution's output padding, its own where both sides are cropped alike."""
    left, right = window.padding[axis]
    return window.extra[axis] + left - right


def pool_change(name: str, kind: str, window: Window, scales: Sequence[float]) -> ModuleChange:
    """A pooling at `scales`: an average's window grows, a maximum's taps spread."""
    after = []
    for scale, g, size in zip(scales, window.geometry(), window.size, strict=True):
        if abs(scale - round(scale)) > 1e-9:
            raise RekernelError(f"pooling can only be rescaled by whole numbers, not scale={scale:g}")
        if g.padding[0] != g.padding[1]:
            raise RekernelError(f"pools with padding {g.padding} that differs between the sides")
        new = pool_geometry(
            g.kernel, kind.removesuffix("-pool"), stride=g.stride, padding=g.padding[0], dilation=g.dilation,
            scale_in=scale, size=size,
        )  # fmt: skip
        after.append(AxisGeometry(new.taps, new.stride, new.padding, new.dilation))
    return ModuleChange(name, kind, "pooling", window.geometry(), tuple(after))


def linear_change(
    name: str, dtype: str, shape: tuple[int, ...], axis: int, reads: tuple[tuple[int, float], ...], settings: Settings
) -> LayerChange:
    """A matrix whose `axis` reads a flattened grid, given as (size, scale) of its parts in order: it absorbs."""
    cells = tuple(n for n, _ in reads)
    if math.prod(cells) != shape[axis]:
        raise RekernelError(f"reads {math.prod(cells)} values and has {shape[axis]} inputs")
    s = settings
    operators = []
    for i, (n, scale) in enumerate(reads):
        m = new_size(n, scale)
        if m != n:
            operators.append(
                AxisOperator(axis + i, n, m, "grid", m / n, s.grid_method(), s.gain, a=s.a, smoothness=s.smoothness)
            )
    new = math.prod(new_size(n, scale) for n, scale in reads)
    grid = "x".join(map(str, cells))
    return LayerChange(
        name, dtype, shape, (*shape[:axis], new, *shape[axis + 1 :]), "linear-in",
        f"fully connected: reads a {grid} grid",
        view=(*shape[:axis], *cells, *shape[axis + 1 :]), operators=tuple(operators),
    )  # fmt: skip


def values_change(name: str, dtype: str, axes: Axes, settings: Settings) -> LayerChange:
    """A constant with an entry for every pixel (position embeddings): values, interpolated without a coefficient."""
    view = tuple(part.size for axis in axes for part in axis)
    scales = [part.scale for axis in axes for part in axis]
    news = [part.new for axis in axes for part in axis]
    method = settings.values_method()
    operators = tuple(
        AxisOperator(i, n, m, "grid", m / n, method, "none", a=settings.a, smoothness=settings.smoothness)
        for i, (n, m, scale) in enumerate(zip(view, news, scales, strict=True))
        if scale != 1 and n != m
    )
    sizes = iter(news)
    new = tuple(math.prod(next(sizes) for _ in axis) for axis in axes)
    return LayerChange(
        name,
        dtype,
        old_shape(axes),
        new,
        "values",
        "a value for every pixel: no coefficient",
        view=view,
        operators=operators,
    )
