"""Keep on a pipeline what is attached to it: its attribute `rekernel`.

Scope: the record of what is on. Not here: attaching one part (see `attachable`), attaching several at once (see
`diffusion/applying`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ...errors import RekernelError
from ...messages.display import Table
from ...text import scale_text

ATTRIBUTE = "rekernel"
"""The attribute of a pipeline that holds what is attached to it."""


class NoCascade:
    """Stands where a pipeline has no cascade: it is false, and calling it says how to make one."""

    def __bool__(self) -> bool:
        return False

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise RekernelError(
            "this pipeline has no cascade; rekernel.diffusion.apply(pipe, size=(2048, 2048), cascade=True) makes one"
        )

    def __repr__(self) -> str:
        return "no cascade"


class Attached:
    """What is attached to a pipeline: its attribute `rekernel`; a `with` block removes everything at its end.

    Attributes
    ----------
    guidance, kernels, positions
        The attached `UpsampleGuidance`, `SupersampledKernels` and `RescaledPositions`; None where there is none.
    cascade
        A cascade to call like the pipeline, `pipe.rekernel.cascade(prompt)`. Where none was asked for, it is false,
        and calling it says how to make one.
    size
        (height, width) in pixels, as `rekernel.diffusion.apply` was given it; None where it was not.
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
        self._cascade: Any = None
        self.applied: tuple[Any, ...] | None = None
        self.size: tuple[int, int] | None = None

    @property
    def parts(self) -> tuple[Any, ...]:
        """Everything but the cascade, in the order of attaching."""
        return tuple(self._parts)

    @property
    def cascade(self) -> Any:
        return NoCascade() if self._cascade is None else self._cascade

    @cascade.setter
    def cascade(self, made: Any) -> None:
        self._cascade = made or None

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
        if not self._parts and self._cascade is None and not self._stays:
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

    def _rows(self) -> list[tuple[str, str]]:
        """What there is, and its settings in a few words."""
        rows = [(f"weights of {name}", f"rescaled by {scale_text(scale)}") for name, scale in self.rescaled.items()]
        rows += [(part.slot, part.brief()) for part in self._parts]
        rows += [] if self._cascade is None else [("cascade", repr(self._cascade))]
        if self.size is not None:
            height, width = self.size
            known = "" if self._cascade is None else "the cascade knows it; "
            rows.append(("size", f"{width}x{height}; {known}pass height={height}, width={width} to the pipeline"))
        return rows

    def __repr__(self) -> str:
        said = [f"{name} {what}" if name.startswith("weights") else f"{name}: {what}" for name, what in self._rows()]
        return f"Attached({'; '.join(said) or 'nothing'})"

    def _repr_html_(self) -> str:
        table = Table("what is attached", (), self._rows()).to_html() if self._rows() else "nothing"
        return f"<div><b>Attached</b>{table}</div>"


def attached_to(pipe: Any) -> Attached:
    """The record of a pipeline; a new one where it has none."""
    found = vars(pipe).get(ATTRIBUTE)
    if not isinstance(found, Attached):
        found = Attached(pipe)
        vars(pipe)[ATTRIBUTE] = found  # some pipelines are frozen
    return found


def asked_size(pipe: Any) -> tuple[int, int] | None:
    """The size in pixels, (height, width), that `apply` was given for a pipeline; None where it was not."""
    found = None if pipe is None else vars(pipe).get(ATTRIBUTE)
    return found.size if isinstance(found, Attached) else None


def taken_off(pipe: Any, part: Any) -> None:
    """Tell the record of a pipeline that a part was removed."""
    found = vars(pipe).get(ATTRIBUTE)
    if isinstance(found, Attached):
        found.drop(part)


__all__ = ["ATTRIBUTE", "Attached", "asked_size", "attached_to", "taken_off"]
