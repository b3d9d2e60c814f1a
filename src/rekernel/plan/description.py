"""What a plan was asked for, as text for people.

Knows the options that a plan keeps for its reader. Beside `serialization` this module alone reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Plan

_SHOWN = ("method", "taps", "gain", "selection")


def scale_text(scale: float | Sequence[float]) -> str:
    """A scale as it is typed.

    Examples
    --------
    >>> scale_text(2.0), scale_text((1.5, 2.0))
    ('2', '1.5x2')
    """
    return "x".join(f"{s:g}" for s in (scale if isinstance(scale, Sequence) else (scale,)))


def described(plan: Plan) -> dict[str, str]:
    """Texts by label: the scale, and of method, taps, gain and selection those that the plan says.

    A plan may come from a stranger, and these texts are not escaped. Whoever shows them escapes them.

    Examples
    --------
    >>> described(Plan((), options={"method": "cubic", "a": -0.5}, scale=2))
    {'scale': '2', 'method': 'cubic'}
    """
    said = {label: plan.options[label] for label in _SHOWN if label in plan.options}
    texts = {label: f"{value:g}" if isinstance(value, float) else str(value) for label, value in said.items()}
    return {"scale": scale_text(plan.scale), **texts}
