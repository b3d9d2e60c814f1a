"""Plan the poolings of a traced model: describe the modules of torch for the shared rule.

Scope: pooling modules, explicit padding in front of them, and poolings over the whole grid. Not here: what becomes of a
pooling (see `planning.pooling`), and making the new one (see `torch.layers.pools`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ...errors import RekernelError
from ...plan.changes import AxisGeometry, ModuleChange
from ...planning.layers import ConvAxis, PoolBecame
from ...planning.pooling import pooling
from ..layers.padding import tuple_of
from ..tracing.layer_call import LayerCall
from ..tracing.run import Trace
from .pool_forwards import padding_inside

POOLS = {
    nn.MaxPool1d: "max-pool", nn.MaxPool2d: "max-pool", nn.MaxPool3d: "max-pool",
    nn.AvgPool1d: "avg-pool", nn.AvgPool2d: "avg-pool", nn.AvgPool3d: "avg-pool",
}  # fmt: skip
"""The kind that a plan gives to each pooling class of torch."""

_CLASSES: tuple[Any, ...] = tuple(POOLS)
_FORWARDS = {known.forward for known in _CLASSES}
_POINTWISE = ("linear", "linear-out", "attention", "positions", "other", "within")
"""Kinds of calls that read a single pixel as they read many."""

Scales = tuple[float, ...]


def pool_axes(
    module: Any, scales: Sequence[float], size: Sequence[int] | None = None, offset: Sequence[float] = ()
) -> list[ConvAxis]:
    """The spatial axes of a pooling.

    Parameters
    ----------
    module : nn.MaxPool1d, nn.AvgPool1d, ...
    scales : sequence of float
        Scale of the grid that arrives, one per axis.
    size : sequence of int, optional
        Pixels of the grid that arrives, one number per axis, if known.
    offset : sequence of float, optional
        Distance of the arriving features from their place, one number per axis.

    Examples
    --------
    >>> pool_axes(nn.AvgPool1d(2), [2.0])[0].geometry
    AxisGeometry(kernel=2, stride=2, padding=(0, 0), dilation=1)
    """
    count = len(scales)
    kernel, stride, padding, dilation = (
        tuple_of(getattr(module, what, 1), count) for what in ("kernel_size", "stride", "padding", "dilation")
    )
    return [
        ConvAxis(
            AxisGeometry(kernel[i], stride[i], (padding[i], padding[i]), dilation[i]),
            scale, scale, size[i] if size else None, offset=offset[i] if offset else 0.0,
            hangs_over=bool(module.ceil_mode),
        )
        for i, scale in enumerate(scales)
    ]  # fmt: skip


def pool_change(
    call: LayerCall, module: Any, arriving: Scales, offset: Sequence[float], trace: Trace, *, aligned: bool,
    given: Collection[tuple[int, ...]],
) -> tuple[PoolBecame, Scales]:  # fmt: skip
    """What a traced pooling becomes, and the scale of the grid that it gives.

    Parameters
    ----------
    module : nn.MaxPool1d, nn.AvgPool1d, ...
    arriving : tuple of float
        Scale of the grid that arrives, one per axis.
    offset : sequence of float
        Distance of the arriving features from their place; empty for 0.
    aligned : bool
        As for `planning.pooling.pooling`.
    given : collection of tuples
        Sizes of the grids that the call reads, before any padding.

    Raises
    ------
    RekernelError
        If the padding in front of the pooling is not zeros, if its forward method does something else than to pad and
        pool, or if no pooling fits.
    """
    axes = pool_axes(module, arriving, call.size, offset)
    by_hand = call.by_hand if any(map(any, call.by_hand)) else ()
    if type(module).forward not in _FORWARDS:
        inside = padding_inside(module, _CLASSES, call.size, given)
        if inside is not None:  # the new pooling pads all by itself
            by_hand, axes = (), [_padded(axis, sides) for axis, sides in zip(axes, inside, strict=True)]
    if by_hand and (call.by_hand_mode != "constant" or min(map(min, by_hand)) < 0):
        how = "crops" if min(map(min, by_hand)) < 0 else f"pads by {call.by_hand_mode!r}"
        raise RekernelError(
            f"code in front of this pooling {how} ({by_hand}), which does not grow with the image; pad with zeros, or "
            f"give the padding to the pooling itself, padding=..."
        )
    ends = ends_grid(call, trace)
    axes = [replace(axis, scale_out=1.0) if end else axis for axis, end in zip(axes, ends, strict=True)]
    became = pooling(call.module, call.kind, axes, aligned=aligned)
    change = replace(became.change, by_hand=by_hand)
    return replace(became, change=change), tuple(axis.scale_out for axis in axes)


def ends_grid(call: LayerCall, trace: Trace) -> tuple[bool, ...]:
    """For each axis, whether a pooling ends the grid there, as a global pooling does: it gives a single pixel.

    A single pixel is not the end of the grid if a layer with a larger kernel reads that pixel, or if it is joined with
    other single pixels: on a small example, any pooling gives a single pixel.
    """
    one = tuple(n == 1 for n in call.out_size)
    if not any(one):
        return one
    behind = {call.index}
    sizes = {other.index: other.out_size for other in trace.calls}
    for later in (*trace.calls[call.index :], None):
        sources = trace.output if later is None else later.sources
        if not sources & behind:
            continue
        others = [sizes[index] for index in sources - behind if index in sizes]
        if any(size and all(n == 1 for n in size) for size in others):
            return (False,) * len(one)
        if others or later is None:  # a factor for every pixel of a larger grid
            continue
        pointwise = later.kind in _POINTWISE or (later.kind == "conv" and max(later.kernel) == 1)
        if not pointwise:
            return (False,) * len(one)
        behind.add(later.index)
    return one


def adaptive_scales(call: LayerCall, module: Any, arriving: Scales) -> Scales:
    """The scales that an adaptive pooling leaves: it gives as many pixels as before, or on some axes all that arrive.

    Examples
    --------
    >>> column = LayerCall(2, "adaptive-pool", "pool", frozenset({1}), size=(8, 8), out_size=(8, 1))
    >>> adaptive_scales(column, nn.AdaptiveAvgPool2d((None, 1)), (2.0, 2.0))
    (2.0, 1.0)
    """
    asked = getattr(module, "output_size", ())
    asked = asked if isinstance(asked, tuple) else (asked,) * len(arriving)
    if len(asked) != len(arriving):  # a function in code, which may be given the size of the image along one axis
        strip = len(call.size) == len(arriving) and call.out_size != call.size
        same = [strip and n == m > 1 for n, m in zip(call.size, call.out_size, strict=False)]
        return tuple(s if i < len(same) and same[i] else 1.0 for i, s in enumerate(arriving))
    return tuple(s if n is None else 1.0 for s, n in zip(arriving, asked, strict=True))


def functional_note(call: LayerCall) -> str:
    """The note about a pooling that is a function in a model's code, which has no module to replace."""
    name = call.kind.split("-")[0].capitalize()
    return (
        f"{call.module or 'the model itself'}: a functional {call.kind} call cannot be rescaled; at the new resolution "
        f"it covers a smaller part of the image; make it a module (nn.{name}Pool{len(call.size)}d) to rescale it"
    )


def whole_grid_doubt(call: LayerCall) -> str:
    """What is wrong with a functional pooling over the whole grid if its window is a number: it does not grow."""
    return (
        f"{call.module or 'the model itself'}: a functional {call.kind} call over all {'x'.join(map(str, call.size))} "
        f"pixels needs a window that follows the size of the grid; use an adaptive pooling to 1 pixel"
    )


def joined(before: ModuleChange | None, change: ModuleChange) -> tuple[ModuleChange, bool]:
    """The change of a module that pools several grids, and whether one pooling cannot serve all of them.

    A pooling whose sides differ finds the right side at any size, so that only the rest has to agree.

    Examples
    --------
    >>> old, new = AxisGeometry(2, 2, (0, 0)), (AxisGeometry(2, 2, (0, 1), 2), AxisGeometry(2, 2, (0, 0), 2))
    >>> one, other = (ModuleChange("pool", "max-pool", "", (old,), (geometry,)) for geometry in new)
    >>> joined(one, other) == (one, False)
    True
    """
    if before is None or before.new_geometry == change.new_geometry:
        return change, False
    left = [[replace(g, padding=(g.padding[0], 0)) for g in each.new_geometry] for each in (before, change)]
    if left[0] != left[1] or before.by_hand != change.by_hand:
        return change, True
    uneven = [each for each in (before, change) if any(g.padding[0] != g.padding[1] for g in each.new_geometry)]
    return uneven[0], False


def _padded(axis: ConvAxis, sides: tuple[int, int]) -> ConvAxis:
    """An axis with more padding, whose size is that before this padding."""
    left, right = axis.geometry.padding
    geometry = replace(axis.geometry, padding=(left + sides[0], right + sides[1]))
    return replace(axis, geometry=geometry, size=None if axis.size is None else axis.size - sum(sides))
