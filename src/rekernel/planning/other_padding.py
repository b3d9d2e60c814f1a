"""Give the change of a convolution another padding than the plan assumed, by the rule that made the change.

Scope: geometries. Not here: which padding a layer has (see `torch.planning.complete`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import RekernelError
from ..plan.changes import AxisGeometry, AxisOperator, LayerChange
from ..resampling.geometry import ConvGeometry, conv_geometry
from ..resampling.methods import canonical_method
from .roles import ABSORB

_CLOSE = 1e-9
_ALIGNED = ((False, False), (False, True), (True, True))
"""Where pixel 0 may lie on the input grid and on the output grid: a plan by names does not keep it."""


def with_padding(change: LayerChange, padding: Sequence[tuple[int, int]]) -> LayerChange | None:
    """The change of the same convolution with other padding; None if that asks for another kernel.

    Parameters
    ----------
    padding : ((left, right), ...)
        All padding in front of the trained layer, one pair per spatial axis.

    Examples
    --------
    >>> from rekernel.planning.layers import ConvAxis, Weight
    >>> from rekernel.planning.rules import convolution
    >>> from rekernel.planning.settings import Settings
    >>> bare, padded = (AxisGeometry(3, 1, (p, p)) for p in (0, 1))
    >>> weight = Weight("conv.weight", "F32", (8, 4, 3))
    >>> made = [
    ...     convolution(weight, [ConvAxis(g, 2.0, 2.0)], Settings(2.0, "cubic"), first=2, mode="supersample", reason="")
    ...     for g in (bare, padded)
    ... ]
    >>> made[0].change == made[1].change, with_padding(made[0].change, [(1, 1)]) == made[1].change
    (False, True)
    """
    if [g.padding for g in change.geometry] == [tuple(pair) for pair in padding]:
        return change
    if change.kind != "conv" or change.factors:
        return None
    operators = {o.axis - (len(change.view) - len(change.geometry)): o for o in change.operators}
    after = [
        _axis(operators.get(axis), old, (sides[0], sides[1]), new, absorbs=change.mode == ABSORB)
        for axis, (old, sides, new) in enumerate(zip(change.geometry, padding, change.new_geometry, strict=True))
    ]
    before = [replace(g, padding=(left, right)) for g, (left, right) in zip(change.geometry, padding, strict=True)]
    if None in after:
        return None
    made = tuple(g for g in after if g is not None)
    # A layer that pads has pixels beyond the border: it needs no others where its kernel is longer (see the rule).
    return replace(change, geometry=tuple(before), new_geometry=made, padding_mode="")


def _axis(
    o: AxisOperator | None, old: AxisGeometry, padding: tuple[int, int], new: AxisGeometry, *, absorbs: bool
) -> AxisGeometry | None:
    """The new geometry along one axis for other padding; None if the taps would lie elsewhere."""
    if o is None:  # the axis keeps its size
        return replace(new, padding=padding)
    for aligned in _ALIGNED:
        assumed = _placed(o, old, old.padding, aligned, absorbs)
        if assumed is None or (assumed.stride, assumed.padding) != (new.stride, new.padding):
            continue
        found = _placed(o, old, padding, aligned, absorbs)
        if found is not None and abs(found.phase - assumed.phase) < _CLOSE:
            return replace(new, stride=found.stride, padding=found.padding)
    return None


def _placed(
    o: AxisOperator, old: AxisGeometry, padding: tuple[int, int], aligned: tuple[bool, bool], absorbs: bool
) -> ConvGeometry | None:
    try:
        return conv_geometry(
            old.kernel, method=canonical_method(o.method), taps=o.new, stride=old.stride, padding=padding,
            dilation=old.dilation, scale_in=o.scale, scale_out=1.0 if absorbs else o.scale, aligned=aligned,
        )  # fmt: skip
    except RekernelError:  # no output without that padding
        return None
