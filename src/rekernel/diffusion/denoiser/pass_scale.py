"""Compute the size of one call over the trained size, for what is rescaled call by call: kernels and positions.

Scope: the scale of the settings, the pass of guidance that runs. Not here: what is rescaled (see `kernels/hook` and
`positions/hook`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..formulas.sizes import Scale, factors_for
from .pass_context import current_pass

_WHOLE = 0.05  # a reduced size is rounded to pixels, so 2.02 times the trained size means twice the trained size


def scale_of_pass(scale: Scale, size: Sequence[int], trained: Sequence[int] | None) -> tuple[float, ...]:
    """Size of this call over the trained size, per grid axis; rounded where it is close to a whole number.

    In a reduced pass of guidance, a scale that is a number applies to the size before the reduction.

    Examples
    --------
    >>> from .pass_context import running
    >>> scale_of_pass(4.0, (64, 64), None)
    (4.0, 4.0)
    >>> with running((2.0, 2.0)):
    ...     scale_of_pass(4.0, (32, 32), None)
    (2.0, 2.0)
    """
    found = factors_for(scale, size, trained)
    reduced = current_pass().reduced
    if reduced and scale != "auto":
        found = tuple(f / r for f, r in zip(found, reduced, strict=True))
    return tuple(float(round(f)) if abs(f - round(f)) < _WHOLE else max(1.0, f) for f in found)
