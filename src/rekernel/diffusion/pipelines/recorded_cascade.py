"""Make the cascade that a pipeline folder records.

Scope: the record's settings as those of a cascade. Not here: the cascade (see `cascade/guided_cascade`), calling it
beside what is attached (see `attached_cascade`), the record (see `record`).
"""

from __future__ import annotations

from typing import Any

from ..cascade.guided_cascade import GuidedCascade
from .record import Recorded


def recorded_cascade(pipe: Any, found: Recorded) -> GuidedCascade:
    """The cascade of a loaded pipeline."""
    return GuidedCascade(
        pipe,
        scale=found.scale[-2:] if isinstance(found.scale, tuple) else found.scale,
        strength=found.cascade or (),
        guidance=False if found.guidance is None else dict(found.guidance),
        kernels=None if found.kernels is None else dict(found.kernels),
        positions=None if found.positions is None else dict(found.positions),
    )


__all__ = ["recorded_cascade"]
