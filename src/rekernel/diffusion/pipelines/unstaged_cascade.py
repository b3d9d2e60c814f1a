"""Stand for a cascade up to the trained size: there is nothing to enlarge, so the pipeline samples once.

Scope: the call. Not here: cascades of several stages (see `attached_cascade`).
"""

from __future__ import annotations

from typing import Any

from ..cascade.sizes import Size, text_of


class UnstagedCascade:
    """The cascade of a pipeline at its trained size or below, `pipe.rekernel.cascade`, called like the pipeline.

    Parameters
    ----------
    pipe : a diffusers pipeline
    size : (height, width) in pixels; None for the pipeline's default
    """

    def __init__(self, pipe: Any, size: Size | None) -> None:
        self.pipe, self.size = pipe, size

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline at the size: its arguments and its result."""
        sized = {} if self.size is None else {"height": self.size[0], "width": self.size[1]}
        return self.pipe(*args, **{**sized, **kwargs})

    def __repr__(self) -> str:
        where = "the default size" if self.size is None else text_of(self.size)
        return f"one call of {type(self.pipe).__name__} at {where}"


__all__ = ["UnstagedCascade"]
