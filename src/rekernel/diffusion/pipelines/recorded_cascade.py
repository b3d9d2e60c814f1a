"""Call the cascade that a pipeline folder records.

Scope: guidance, kernels and positions that are attached already give way while the cascade runs, since it attaches its
own at each stage. Not here: the cascade (see `cascade/guided_cascade`), the record (see `record`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cascade.guided_cascade import GuidedCascade
from ..cascade.sizes import Size
from ..denoiser.attachable import Attachable
from .record import Recorded


class RecordedCascade:
    """The cascade of a loaded pipeline.

    Parameters
    ----------
    pipe : the loaded pipeline
    found : Recorded
    attached : its guidance, kernels and positions

    Attributes
    ----------
    made : GuidedCascade
        The cascade itself.
    """

    def __init__(self, pipe: Any, found: Recorded, attached: Sequence[Attachable]) -> None:
        scale = found.scale[-2:] if isinstance(found.scale, tuple) else found.scale
        self.made = GuidedCascade(
            pipe,
            scale=scale,
            strength=found.cascade or (),
            guidance=False if found.guidance is None else dict(found.guidance),
            kernels=None if found.kernels is None else dict(found.kernels),
            positions=None if found.positions is None else dict(found.positions),
        )
        self._attached = attached

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(height, width) of each stage."""
        return self.made.sizes

    @property
    def passes(self) -> float:
        """Passes of the network in the last call, in units of a pass at the last size."""
        return self.made.passes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Sample in stages: the arguments and the result of `GuidedCascade`."""
        waiting = [part for part in self._attached if part.attached]
        for part in waiting:
            part.remove()
        try:
            return self.made(*args, **kwargs)
        finally:
            for part in waiting:
                part.attach(self.made.pipe)

    def __repr__(self) -> str:
        return repr(self.made)


__all__ = ["RecordedCascade"]
