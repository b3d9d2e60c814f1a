"""Attach something to a denoiser and remove it again: the base class of guidance, rescaled kernels and positions.

Scope: making the hook, taking it off, enabling and disabling. Not here: the work of the hook (see `guidance/hook`,
`kernels/hook` and `positions/hook`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from ...errors import RekernelError
from .attached import attached_to, taken_off


class Attachable(ABC):
    """Base class of what is attached to one denoiser at a time; a `with` block removes it."""

    def __init__(self) -> None:
        self.enabled = True
        self._hook: Any = None
        self._target: Any = None
        self._scheduler: Any = None

    def attach(self, target: Any, *, scheduler: Any = None) -> Self:
        """Act in every call of a pipeline's denoiser, from now on until `remove()`.

        The pipeline's attribute `rekernel` lists what is attached, and `rekernel.diffusion.detach(pipe)` removes it.

        Parameters
        ----------
        target : a diffusers pipeline, or its denoiser
        scheduler : a diffusers scheduler, optional
            For a denoiser without its pipeline, where times or predictions must be known.

        Returns
        -------
        self, for use as `with guidance.attach(pipe):`

        Raises
        ------
        RekernelError
            Where this object is attached already, where the denoiser has another object of this class or a feature
            cache, and where its weights are rescaled already: a call at the trained size needs the original weights.
        """
        if self._hook is not None:
            raise RekernelError(f"{self!r} is attached already; remove() it first, or make another one")
        self._hook = self._make_hook(target, scheduler)
        self._target, self._scheduler = target, scheduler
        if self._hook.target.pipe is not None:
            attached_to(target).add(self)
        return self

    def remove(self) -> None:
        """Restore the denoiser to its state before `attach()`; does nothing where this is not attached."""
        hook, self._hook = self._hook, None
        if hook is not None:
            hook.take_off()
            taken_off(self._target, self)
            self._target = None

    def enable(self) -> None:
        """Act again after `disable()`."""
        self.enabled = True

    def disable(self) -> None:
        """Stay attached, but leave every call unchanged."""
        self.enabled = False

    @property
    @abstractmethod
    def slot(self) -> str:
        """The name under which a pipeline's `rekernel` lists this: 'guidance', 'kernels' or 'positions'."""

    @property
    def attached(self) -> bool:
        """Whether this is attached to a denoiser now."""
        return self._hook is not None

    @property
    def target(self) -> tuple[Any, Any]:
        """The arguments of `attach`: the pipeline or denoiser, and the scheduler."""
        return self._target, self._scheduler

    def _is_enabled(self) -> bool:
        return self.enabled

    @abstractmethod
    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        """Put a hook on the denoiser and return it; a hook has `take_off()`, `described()` and `target`."""

    def brief(self) -> str:
        """The settings in a few words, for a person."""
        said = "" if self._hook is None else self._hook.brief()
        said = said or self._described()
        return said if self.enabled else f"disabled, {said}"

    @abstractmethod
    def _described(self) -> str:
        """The arguments that make the settings, for a repr."""

    def _where(self) -> str:
        """The end of the repr: where this is attached, and whether it is disabled."""
        where = "not attached" if self._hook is None else self._hook.described()
        return where if self.enabled else f"disabled, {where}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.remove()
