"""Call a cascade of a pipeline that has guidance, kernels or positions attached.

Scope: what is attached gives way while the cascade runs, since it attaches its own at each stage. Not here: the cascade
(see `cascade/guided_cascade`), what is attached (see `denoiser/attached`).
"""

from __future__ import annotations

from typing import Any

from ..cascade.guided_cascade import GuidedCascade
from ..cascade.sizes import Size
from ..denoiser.attached import ATTRIBUTE, Attached


class AttachedCascade:
    """The cascade of a pipeline, `pipe.rekernel.cascade`, called like the pipeline.

    Parameters
    ----------
    made : GuidedCascade
        The cascade itself, with its sizes and its count of passes.
    """

    def __init__(self, made: GuidedCascade) -> None:
        self.made = made

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
        found = vars(self.made.pipe).get(ATTRIBUTE)
        parts = found.parts if isinstance(found, Attached) else ()
        waiting = [(part, *part.target) for part in parts if part.attached]
        for part, _, _ in reversed(waiting):
            part.remove()
        try:
            return self.made(*args, **kwargs)
        finally:
            for part, target, scheduler in waiting:
                part.attach(target, scheduler=scheduler)
                if isinstance(found, Attached):
                    found.add(part)

    def __repr__(self) -> str:
        return repr(self.made)


__all__ = ["AttachedCascade"]
