"""The options that a plan was made with, as text for people.

Scope: the options that a plan stores for its reader. Not here: reading the options of old plans (see
`plan.serialization`). No other module reads the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..resampling.methods import AUTO_METHOD
from ..text import dims, scale_text
from .changes import AxisGeometry, LayerChange, ModuleChange

_SHOWN = ("method", "taps", "gain", "selection")


class Planned(Protocol):
    """What a plan says of itself; this module does not import plans, which import it."""

    @property
    def options(self) -> dict[str, Any]: ...
    @property
    def scale(self) -> tuple[float, ...] | float: ...
    @property
    def changed(self) -> tuple[LayerChange, ...]: ...
    @property
    def modules(self) -> tuple[ModuleChange, ...]: ...


def described(plan: Planned) -> dict[str, str]:
    """Return texts by label: the scale, then method, taps, gain and selection where the plan states them.

    If the method was left to the role of each layer, the methods are those of the layers that change.
    The texts are not escaped, and a plan may come from an untrusted file. The caller must escape the texts.

    Examples
    --------
    >>> from rekernel import Plan
    >>> described(Plan((), options={"method": "cubic", "a": -0.5}, scale=2))
    {'scale': '2', 'method': 'cubic'}
    >>> described(Plan((), scale=(1.5, 2.0)))
    {'scale': '2 in width and 1.5 in height'}
    """
    said = {label: plan.options[label] for label in _SHOWN if label in plan.options}
    if said.get("method") == AUTO_METHOD:
        used = [o.method for change in plan.changed for o in change.resamplings]
        used += [module.method for module in plan.modules if module.method]
        said["method"] = " and ".join(dict.fromkeys(used)) or AUTO_METHOD
    texts = {label: f"{value:g}" if isinstance(value, float) else str(value) for label, value in said.items()}
    return {"scale": scale_words(plan.scale), **texts}


def scale_words(scale: float | tuple[float, ...]) -> str:
    """A scale as people read it: one number where the axes share it, and the names of the sides where they do not."""
    if not isinstance(scale, tuple) or len(set(scale)) == 1:
        return scale_text(scale[0] if isinstance(scale, tuple) else scale)
    if len(scale) == 2:
        return f"{scale[1]:g} in width and {scale[0]:g} in height"
    return scale_text(scale)


def geometry_text(axes: Sequence[AxisGeometry]) -> str:
    """How a layer runs: what its axes share once, what they do not share axis by axis.

    Examples
    --------
    >>> geometry_text([AxisGeometry(5, 1, (2, 2)), AxisGeometry(3, 1, (1, 1))])
    'kernel 5x3, stride 1, padding 2x1'
    >>> geometry_text([AxisGeometry(3, 2, (0, 1), 2)] * 2)
    'kernel 3, stride 2, padding 0+1, dilation 2'
    """

    def each(values: Sequence[object]) -> str:
        return str(values[0]) if len(set(values)) == 1 else dims(values)

    sides = [str(left) if left == right else f"{left}+{right}" for left, right in (axis.padding for axis in axes)]
    text = f"kernel {each([a.kernel for a in axes])}, stride {each([a.stride for a in axes])}, padding {each(sides)}"
    dilation = each([axis.dilation for axis in axes])
    return text if dilation == "1" else f"{text}, dilation {dilation}"
