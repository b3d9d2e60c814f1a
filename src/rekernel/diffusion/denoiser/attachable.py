"""What can be attached to a denoiser and taken off again: the life of guidance and of switched kernels.

Scope: a hook is made when attaching and taken off when removing. Not here: what the hook does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from ...errors import RekernelError


class Attachable(ABC):
    """Attached to one denoiser at a time; a context manager that removes it."""

    def __init__(self) -> None:
        self.enabled = True
        self._hook: Any = None

    def attach(self, target: Any, *, scheduler: Any = None) -> Self:
        """Act in every call of a pipeline's denoiser from now on, until `remove()`.

        Parameters
        ----------
        target : a diffusers pipeline, or its denoiser
        scheduler : a diffusers scheduler, optional
            With a denoiser alone, where times or predictions have to be known.

        Returns
        -------
        self, for `with ....attach(pipe):`

        Raises
        ------
        RekernelError
            Where this is attached already, or one of its kind or a feature cache is; and to a network whose weights are
            rescaled already, since a call at the trained size needs the original ones.
        """
        if self._hook is not None:
            raise RekernelError(f"{self!r} is attached already; remove() it first, or make another one")
        self._hook = self._make_hook(target, scheduler)
        return self

    def remove(self) -> None:
        """Take it off: the denoiser is as it was. Nothing happens where it is not attached."""
        hook, self._hook = self._hook, None
        if hook is not None:
            hook.take_off()

    def enable(self) -> None:
        """Act again after `disable()`."""
        self.enabled = True

    def disable(self) -> None:
        """Stay attached and do nothing."""
        self.enabled = False

    def _is_enabled(self) -> bool:
        return self.enabled

    @abstractmethod
    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        """The hook on the denoiser, with `take_off()` and `described()`."""

    def _where(self) -> str:
        """The end of the repr: attached to what, and whether it acts."""
        where = "not attached" if self._hook is None else self._hook.described()
        return where if self.enabled else f"disabled, {where}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.remove()
