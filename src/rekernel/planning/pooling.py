"""Decide what a pooling becomes at a scale. Every planner calls this rule.

Scope: windows, strides and paddings. Not here: layers with weights (see `planning.rules`), how a planner finds a
pooling, and what divides the sum of an average (see `rekernel.torch.layers.pools` and `rekernel.onnx.pools`).
Derivation: docs/mathematics.md, "Pointwise layers, pooling, and what stays".
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RekernelError
from ..plan.changes import AxisGeometry, ModuleChange
from ..resampling.geometry import is_whole, new_size, pool_geometry
from .layers import ConvAxis, PoolBecame

Placed = tuple[AxisGeometry, float]


def pooling(name: str, kind: str, axes: Sequence[ConvAxis], *, aligned: bool = False) -> PoolBecame:
    """Rescale a pooling: the window of average pooling grows, and the taps of max pooling are spread.

    Along an axis whose `scale_out` is 1 the pooling absorbs the scale: its window, its stride and its padding grow. A
    window over the whole grid is a window over the whole grid then, whatever the scale.

    Parameters
    ----------
    name : str
        Path of the module, or name of the node.
    kind : {'max-pool', 'avg-pool'}
    axes : sequence of ConvAxis
    aligned : bool
        Whether pixel 0 stays pixel 0 on both grids, as for `planning.rules.convolution`.

    Raises
    ------
    RekernelError
        If the scale is not a whole number, or if the pooling has no output.

    Examples
    --------
    >>> pooling("pool", "max-pool", [ConvAxis(AxisGeometry(3, 2, (1, 1)), 2.0, 2.0)]).offset
    (0.5,)
    >>> pooling("pool", "avg-pool", [ConvAxis(AxisGeometry(7, 7, (0, 0)), 2.0, 1.0, 7)]).change.new_geometry
    (AxisGeometry(kernel=14, stride=14, padding=(0, 0), dilation=1),)
    """
    after, offset = [], []
    for axis in axes:
        geometry, beside = _placed(kind, axis, aligned=aligned)
        after.append(geometry)
        offset.append(beside)
    change = ModuleChange(name, kind, "pooling", tuple(axis.geometry for axis in axes), tuple(after))
    return PoolBecame(change, tuple(offset))


def _placed(kind: str, axis: ConvAxis, *, aligned: bool) -> Placed:
    g, scale = axis.geometry, axis.scale_in
    if axis.stays:
        return g, 0.0
    if axis.scale_out == 1:
        return _absorbing(axis), 0.0
    if not is_whole(scale) or scale < 1:
        raise RekernelError(f"pooling can only be rescaled by whole numbers, not scale={scale:g}; choose a whole scale")
    place = pool_geometry(
        g.kernel, kind.removesuffix("-pool"), stride=g.stride, padding=g.padding, dilation=g.dilation,
        ceil_mode=axis.hangs_over, scale_in=scale, size=axis.size, aligned=(aligned, aligned), offset=axis.offset,
    )  # fmt: skip
    return AxisGeometry(place.taps, place.stride, place.padding, place.dilation), 0.0 if aligned else place.phase


def _absorbing(axis: ConvAxis) -> AxisGeometry:
    """The window that reads the pixels of the trained one: at a whole scale, each of its pixels became `scale` pixels.

    Taps with gaps between them are spread, as in a max pooling that supersamples.
    """
    g, scale = axis.geometry, axis.scale_in
    if axis.size is not None and g.kernel >= axis.size and g.dilation == 1 and not any(g.padding):
        now = new_size(axis.size, scale)
        stays = axis.hangs_over and g.kernel >= now
        return g if stays else AxisGeometry(now, max(1, new_size(g.stride, scale)), (0, 0))
    taps, stride, left, right = (
        new_size(n, scale, exact=True, what=f"a pooling of {n} pixels") if n else 0
        for n in (g.kernel, g.stride, *g.padding)
    )
    if g.dilation == 1:
        return AxisGeometry(taps, stride, (left, right))
    return AxisGeometry(g.kernel, stride, (left, right), round(g.dilation * scale))
