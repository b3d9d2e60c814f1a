"""Keep on a pipeline what is attached to it: its attribute `rekernel`.

Scope: the record of what is on. Not here: attaching one part (see `attachable`), attaching several at once (see
`diffusion/applying`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ...text import scale_text

ATTRIBUTE = "rekernel"
"""The attribute of a pipeline that holds what is attached to it."""


class Attached:
    """What is attached to a pipeline: its attribute `rekernel`; a `with` block removes everything at its end.

    Attributes
    ----------
    guidance, kernels, positions
        The attached `UpsampleGuidance`, `SupersampledKernels` and `RescaledPositions`; None where there is none.
    cascade
        A cascade to call like the pipeline, `pipe.rekernel.cascade(prompt)`; None where none was asked for.
    applied
        The parts that `rekernel.diffusion.apply` attached; None where it attached nothing.
    rescaled
        The scale of each component of a loaded pipeline whose weights are rescaled, by name; they stay so.
    """

    def __init__(self, pipe: Any, rescaled: Mapping[str, float | tuple[float, ...]] | None = None) -> None:
        self._pipe, self.rescaled = pipe, dict(rescaled or {})
        self._parts: list[Any] = []
        self._kept: tuple[Any, ...] = ()
        self._stays = False
        self.cascade: Any = None
        self.applied: tuple[Any, ...] | None = None

    @property
    def parts(self) -> tuple[Any, ...]:
        """Everything but the cascade, in the order of attaching."""
        return tuple(self._parts)

    @property
    def guidance(self) -> Any:
        return self._named("guidance")

    @property
    def kernels(self) -> Any:
        return self._named("kernels")

    @property
    def positions(self) -> Any:
        return self._named("positions")

    def _named(self, slot: str) -> Any:
        return next((part for part in self._parts if part.slot == slot), None)

    def keep(self) -> None:
        """Keep this object on the pipeline, and list its parts also when they are removed: a folder records them."""
        self._kept, self._stays = self.parts, True

    def add(self, part: Any) -> None:
        """List a part that was attached."""
        if not any(part is other for other in self._parts):
            self._parts.append(part)

    def drop(self, part: Any) -> None:
        """List a part no longer; the pipeline loses its attribute with the last one."""
        if not any(part is other for other in self._kept):
            self._parts = [other for other in self._parts if other is not part]
        if not self._parts and self.cascade is None and not self._stays:
            self._forget()

    def remove(self) -> None:
        """Remove guidance, kernels and positions, and a cascade that `apply` made."""
        for part in reversed(self._parts):
            part.remove()
        if not self._stays:
            self.cascade = None
            self._forget()

    def _forget(self) -> None:
        if vars(self._pipe).get(ATTRIBUTE) is self:
            del vars(self._pipe)[ATTRIBUTE]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.remove()

    def __repr__(self) -> str:
        said = [f"weights of {name} rescaled by {scale_text(scale)}" for name, scale in self.rescaled.items()]
        said += [f"{part.slot}={part!r}" for part in self._parts]
        said += [] if self.cascade is None else [f"cascade={self.cascade!r}"]
        return f"Attached({', '.join(said) or 'nothing'})"


def attached_to(pipe: Any) -> Attached:
    """The record of a pipeline; a new one where it has none."""
    found = vars(pipe).get(ATTRIBUTE)
    if not isinstance(found, Attached):
        found = Attached(pipe)
        vars(pipe)[ATTRIBUTE] = found  # some pipelines are frozen
    return found


def taken_off(pipe: Any, part: Any) -> None:
    """Tell the record of a pipeline that a part was removed."""
    found = vars(pipe).get(ATTRIBUTE)
    if isinstance(found, Attached):
        found.drop(part)


__all__ = ["ATTRIBUTE", "Attached", "attached_to", "taken_off"]
