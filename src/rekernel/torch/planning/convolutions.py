"""A traced convolution as the shared rules take it, in the form asked for.

Scope: one call, its layer, and the scales before and after it. Not here: what becomes of a convolution (see
`planning.rules`), nor how scales travel (see `planner`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ...patterns import layer_of
from ...plan.changes import AxisGeometry, LayerChange, Mode
from ...planning.layers import ConvAxis
from ...planning.roles import ABSORB
from ...planning.rules import convolution, is_patch
from ...planning.settings import Settings
from ...resampling.geometry import is_whole
from ..layers.padding import own_padding, tuple_of
from ..tracing.recorder import Call
from .cost import pays
from .grids import Scales, weight_of


def conv_change(
    call: Call, m: Any, weight: Tensor, arriving: Scales, leaving: Scales, mode: Mode, form: str, settings: Settings
) -> LayerChange:
    """The change of a convolution in the form asked for; for 'auto' in the one that costs less to run (`cost`).

    Parameters
    ----------
    call, m, weight
        What was seen, the layer and its weight.
    arriving, leaving : tuple of float
        Scale of the grid before and after, per spatial axis.
    mode : {'supersample', 'absorb'}
    form : {'dense', 'factored', 'auto'}
    settings : Settings

    Raises
    ------
    RekernelError
        Where a transposed convolution is to absorb, or no kernel suits.
    """
    if form != "auto":
        return _change(call, m, weight, arriving, leaving, mode, form, settings)
    dense = _change(call, m, weight, arriving, leaving, mode, "dense", settings)
    if settings.taps not in (None, "full") or not _all_whole(arriving):
        return dense
    factored = _change(call, m, weight, arriving, leaving, mode, "factored", settings)
    return factored if factored.factors and pays(m, dense, factored) else dense


def change_notes(call: Call, arriving: Scales, form: str) -> list[str]:
    """What the user has to know of a change: a form that was not possible, padding that was."""
    notes = []
    if form == "factored" and not _all_whole(arriving):
        notes.append(f"{layer_of(call.weight)}: has a scale that is no whole number, so it is dense")
    if call.inside and call.by_hand_mode != "constant":
        notes.append(f"{call.module}: pads by {call.by_hand_mode!r} in its own forward; padded with zeros instead")
    return notes


def _change(
    call: Call, m: Any, weight: Tensor, arriving: Scales, leaving: Scales, mode: Mode, form: str, settings: Settings
) -> LayerChange:
    factored = form == "factored" and _all_whole(arriving)
    axes = _axes(call, m, arriving, leaving)
    what = f"{'x'.join(map(str, call.size))} grid"
    if mode == ABSORB and not factored and is_patch(axes):
        what = f"patches of {'x'.join(map(str, m.kernel_size))} pixels"
    became = convolution(
        weight_of(call.weight, weight), axes, settings, first=2, mode=mode, reason=f"{what}: {mode}s",
        transposed=call.kind == "conv-transpose", factored=factored,
    )  # fmt: skip
    return became.change if became.change.kept else _without_hand(became.change, call, m)


def _axes(call: Call, m: Any, arriving: Scales, leaving: Scales) -> list[ConvAxis]:
    """Its spatial axes, with all of the padding in front of it: the layer's own, and what was padded by hand."""
    count = len(arriving)
    extra = tuple_of(getattr(m, "output_padding", 0), count)
    axes = []
    for axis, own in enumerate(own_padding(m)):
        hand = _hand(call, axis)
        geometry = AxisGeometry(
            m.kernel_size[axis], m.stride[axis], (own[0] + hand[0], own[1] + hand[1]), m.dilation[axis]
        )
        axes.append(ConvAxis(geometry, arriving[axis], leaving[axis], call.size[axis] - sum(hand), extra[axis]))
    return axes


def _without_hand(change: LayerChange, call: Call, m: Any) -> LayerChange:
    """The change of the layer itself: padding by hand stays in the model's code, unless the layer has to do it."""
    remade = call.by_hand_mode != "constant"  # no layer pads so: the new one does it instead of the model's code
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


def _hand(call: Call, axis: int) -> tuple[int, int]:
    """Padding by hand along an axis, (left, right)."""
    return call.by_hand[axis] if axis < len(call.by_hand) else (0, 0)


def _all_whole(scales: Scales) -> bool:
    return all(map(is_whole, scales))
