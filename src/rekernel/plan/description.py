"""The options that a plan was made with, as text for people.

Scope: the options that a plan stores for its reader. Not here: reading the options of old plans (see
`plan.serialization`). No other module reads the options.
"""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Plan

_SHOWN = ("method", "taps", "gain", "selection")


def scale_text(scale: float | Sequence[float]) -> str:
    """Return a scale as a user types it.

    Examples
    --------
    >>> scale_text(2.0), scale_text((1.5, 2.0))
    ('2', '1.5x2')
    """
    return "x".join(f"{s:g}" for s in (scale if isinstance(scale, Sequence) else (scale,)))


def described(plan: Plan) -> dict[str, str]:
    """Return texts by label: the scale, then method, taps, gain and selection where the plan states them.

    The texts are not escaped, and a plan may come from an untrusted file. The caller must escape the texts.

    Examples
    --------
    >>> described(Plan((), options={"method": "cubic", "a": -0.5}, scale=2))
    {'scale': '2', 'method': 'cubic'}
    """
    said = {label: plan.options[label] for label in _SHOWN if label in plan.options}
    texts = {label: f"{value:g}" if isinstance(value, float) else str(value) for label, value in said.items()}
    return {"scale": scale_text(plan.scale), **texts}
