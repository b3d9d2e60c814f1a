"""Plan one traced convolution, in the form that the caller chose.

Scope: one call, its layer, and the scales before and after it. Not here: what becomes of a convolution (see
`planning.rules`), nor the scale that arrives at a layer (see `torch.planning.planner`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ...patterns import layer_of
from ...plan.changes import AxisGeometry, LayerChange, Mode
from ...planning.layers import ConvAxis
from ...planning.roles import ABSORB
from ...planning.rules import convolution, is_patch
from ...planning.settings import Settings
from ...resampling.geometry import is_whole
from ..layers.padding import own_padding, tuple_of
from ..tracing.layer_call import LayerCall
from .cost import pays
from .grids import Scales, weight_of


def conv_change(
    call: LayerCall,
    m: Any,
    weight: Tensor,
    arriving: Scales,
    leaving: Scales,
    mode: Mode,
    form: str,
    settings: Settings,
    aligned: tuple[bool, bool],
    offset: Sequence[float],
) -> LayerChange:
    """The change of a convolution in the chosen form. 'auto' chooses the form that costs less to run (`cost`).

    In the 'plain' form a dilated layer keeps its weights and is dilated; any other is dense.

    Parameters
    ----------
    call, m, weight
        The recorded call, the layer and its weight.
    arriving, leaving : tuple of float
        Scale of the grid before and after the layer, one per spatial axis.
    mode : {'supersample', 'absorb'}
    form : {'plain', 'dense', 'factored', 'auto'}
    settings : Settings
    aligned : (bool, bool)
        As for `planning.rules.convolution`.
    offset : sequence of float
        Distance of the arriving features from their place, in new pixels, one per spatial axis; empty for 0.

    Raises
    ------
    RekernelError
        If a transposed convolution is to absorb, or if no kernel fits.
    """
    if form == "plain":  # a patch that absorbs is a grid of pixels, whose values are repeated
        patch = mode == ABSORB and is_patch(_axes(call, m, arriving, leaving, offset))
        form = "factored" if settings.method == "dilate" and not patch else "dense"
    if form != "auto":
        return _change(call, m, weight, arriving, leaving, mode, form, settings, aligned, offset)
    dense = _change(call, m, weight, arriving, leaving, mode, "dense", settings, aligned, offset)
    if settings.taps not in (None, "full") or not _all_whole(arriving):
        return dense
    factored = _change(call, m, weight, arriving, leaving, mode, "factored", settings, aligned, offset)
    return factored if factored.factors and pays(m, dense, factored) else dense


def change_notes(call: LayerCall, arriving: Scales, form: str) -> list[str]:
    """Notes about a change: the factored form was not possible."""
    if form == "factored" and not _all_whole(arriving):
        return [f"{layer_of(call.weight)}: its scale is not a whole number, so it is dense and not factored"]
    return []


def is_pruned(module: nn.Module | None) -> bool:
    """Whether torch's pruning computes the weight of a layer.

    Examples
    --------
    >>> is_pruned(nn.Conv2d(1, 1, 3))
    False
    """
    hooks = module._forward_pre_hooks.values() if module is not None else ()
    return any(type(hook).__module__ == "torch.nn.utils.prune" for hook in hooks)


def _change(
    call: LayerCall,
    m: Any,
    weight: Tensor,
    arriving: Scales,
    leaving: Scales,
    mode: Mode,
    form: str,
    settings: Settings,
    aligned: tuple[bool, bool],
    offset: Sequence[float],
) -> LayerChange:
    factored = form == "factored" and _all_whole(arriving)
    axes = _axes(call, m, arriving, leaving, offset)
    what = f"{'x'.join(map(str, call.size))} grid"
    if mode == ABSORB and not factored and is_patch(axes):
        what = f"patches of {'x'.join(map(str, m.kernel_size))} pixels"
    became = convolution(
        weight_of(call.weight, weight), axes, settings, first=2, mode=mode, reason=f"{what}: {mode}s",
        transposed=call.kind == "conv-transpose", factored=factored, aligned=aligned,
    )  # fmt: skip
    return became.change if became.change.kept else _without_hand(became.change, call, m)


def _axes(call: LayerCall, m: Any, arriving: Scales, leaving: Scales, offset: Sequence[float]) -> list[ConvAxis]:
    """The spatial axes of a convolution. Their padding is the layer's own padding and the explicit one before it."""
    count = len(arriving)
    extra = tuple_of(getattr(m, "output_padding", 0), count)
    axes = []
    for axis, own in enumerate(own_padding(m)):
        hand = _hand(call, axis)
        geometry = AxisGeometry(
            m.kernel_size[axis], m.stride[axis], (own[0] + hand[0], own[1] + hand[1]), m.dilation[axis]
        )
        size, beside = call.size[axis] - sum(hand), offset[axis] if offset else 0.0
        axes.append(ConvAxis(geometry, arriving[axis], leaving[axis], size, extra[axis], beside))
    return axes


def _without_hand(change: LayerChange, call: LayerCall, m: Any) -> LayerChange:
    """The change without the explicit padding, which stays in the model's code unless the new layer has to do it."""
    remade = call.by_hand_mode != "constant"  # only padding with zeros can be split between the code and the layer
    own = own_padding(m)
    after = []
    for axis, g in enumerate(change.new_geometry):
        hand = (0, 0) if call.inside or remade else _hand(call, axis)
        after.append(replace(g, padding=(g.padding[0] - hand[0], g.padding[1] - hand[1])))
    by_hand = () if call.inside or not any(map(any, call.by_hand)) else call.by_hand
    return replace(
        change,
        geometry=tuple(replace(g, padding=sides) for g, sides in zip(change.geometry, own, strict=True)),
        new_geometry=tuple(after),
        by_hand=by_hand,
        by_hand_mode=call.by_hand_mode if remade and by_hand else "",
    )


def _hand(call: LayerCall, axis: int) -> tuple[int, int]:
    """Explicit padding along an axis, (left, right)."""
    return call.by_hand[axis] if axis < len(call.by_hand) else (0, 0)


def _all_whole(scales: Scales) -> bool:
    return all(map(is_whole, scales))
