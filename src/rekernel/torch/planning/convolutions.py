"""The change of one convolution that sees a scale: kernel, padding and form.

Knows one call, its layer and the scales before and after it; how scales travel is `planner`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ...errors import RekernelError
from ...patterns import layer_of
from ...plan.changes import AxisGeometry, AxisOperator, LayerChange
from ...planning.settings import Settings
from ...resampling.geometry import ConvGeometry, conv_geometry, conv_transpose_geometry
from ...resampling.methods import canonical_method
from ...resampling.operators import kernel_taps
from ..dtypes import dtype_name
from ..layers.padding import own_padding, tuple_of
from ..tracing.recorder import Call
from .cost import pays
from .grids import Scales, is_patch, patch_change


def conv_change(
    call: Call, m: Any, weight: Tensor, arriving: Scales, leaving: Scales, mode: str, form: str, settings: Settings
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
    if settings.taps not in (None, "full") or not _whole(arriving):
        return dense
    factored = _change(call, m, weight, arriving, leaving, mode, "factored", settings)
    return factored if factored.factors and pays(m, dense, factored) else dense


def change_notes(call: Call, arriving: Scales, form: str) -> list[str]:
    """What the user has to know of a change: a form that was not possible, padding that was."""
    notes = []
    if form == "factored" and not _whole(arriving):
        notes.append(f"{layer_of(call.weight)}: has a scale that is no whole number, so it is dense")
    if call.inside and call.by_hand_mode != "constant":
        notes.append(f"{call.module}: pads by {call.by_hand_mode!r} in its own forward; padded with zeros instead")
    return notes


def _change(
    call: Call, m: Any, weight: Tensor, arriving: Scales, leaving: Scales, mode: str, form: str, s: Settings
) -> LayerChange:
    transposed = call.kind == "conv-transpose"
    if transposed and mode == "absorb":
        raise RekernelError(f"{call.weight}: a transposed convolution enlarges and cannot absorb a scale")
    factored = form == "factored" and _whole(arriving)
    remade = call.by_hand_mode != "constant"  # padding by hand that the layer does again
    if mode == "absorb" and not factored and is_patch(call, m):
        return patch_change(call, weight, arriving, s)
    operators, before, after = [], [], []
    for axis, s_in in enumerate(arriving):
        k, stride, dilation = m.kernel_size[axis], m.stride[axis], m.dilation[axis]
        own = own_padding(m)[axis]
        hand = call.by_hand[axis] if axis < len(call.by_hand) else (0, 0)
        padding, around = (own[0] + hand[0], own[1] + hand[1]), sum(hand)
        if call.inside:
            hand = (0, 0)  # the layer's own code, which goes with the layer
        before.append(AxisGeometry(k, stride, own, dilation))
        if s_in == 1 or (k == 1 and stride == 1):
            after.append(AxisGeometry(k, stride, padding if remade else own, dilation))
            continue
        method, taps = _method(m, axis, s_in, factored, s)
        place: Any = {"method": method, "taps": taps, "stride": stride, "dilation": dilation}
        place |= {"scale_in": s_in, "scale_out": leaving[axis]}
        place["size"] = call.size[axis] - around
        placed: Callable[..., ConvGeometry]
        if transposed:
            extra = tuple_of(m.output_padding, len(arriving))[axis]
            placed = partial(conv_transpose_geometry, k, padding=own[0], output_padding=extra)
        else:
            placed = partial(conv_geometry, k, padding=padding)
        g = placed(**place)
        if factored and isinstance(taps, int) and abs(g.phase) > 0.25:  # one tap longer, it sits exactly
            g = placed(**{**place, "taps": taps + 1})
        phase = 0.0 if method == "dilate" else g.phase
        sides = g.padding if remade else (g.padding[0] - hand[0], g.padding[1] - hand[1])
        operator = AxisOperator(axis + 2, k, g.taps, "kernel", s_in, method, s.gain, phase, dilation, s.a, s.smoothness)
        operator.matrix()
        operators.append(operator)
        after.append(AxisGeometry(g.taps, g.stride, sides, 1))
    by_hand = () if call.inside or not any(map(any, call.by_hand)) else call.by_hand
    new = {o.axis: o.new for o in operators}
    shape = tuple(weight.shape)
    return LayerChange(
        call.weight, dtype_name(weight.dtype), shape,
        shape if factored else tuple(new.get(i, n) for i, n in enumerate(shape)),
        call.kind, f"{'x'.join(map(str, call.size))} grid: {mode}s",
        view=shape, operators=() if factored else tuple(operators), factors=tuple(operators) if factored else (),
        geometry=tuple(before), new_geometry=tuple(after),
        by_hand=by_hand, by_hand_mode=call.by_hand_mode if remade and by_hand else "",
    )  # fmt: skip


def _method(m: Any, axis: int, scale: float, factored: bool, s: Settings) -> tuple[str, int | str | None]:
    method, taps = canonical_method(s.method), s.taps
    if not factored:
        return method, taps
    # A blur is one filter for every tap: the shift-invariant design, and interpolation at its full support.
    if taps is not None and taps != "full":
        raise RekernelError(f"form='factored' takes taps='full', not {taps!r}: the blur's length costs next to nothing")
    if method == "optimal":
        return "optimal-filter", None
    if method == "dilate":
        return method, None
    spread = m.dilation[axis] * (m.kernel_size[axis] - 1)
    return method, kernel_taps(1, scale, method) + round(scale) * spread


def _whole(scales: Scales) -> bool:
    return all(abs(s - round(s)) < 1e-9 for s in scales)
