"""The base class of the hooks that guidance, kernels and positions put on a denoiser.

Scope: putting on, taking off, and when a hook lets a call through. Not here: the work of a hook (see `guidance/hook`,
`kernels/hook`, `positions/hook`), the place of a hook on the network (see `hooks`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from ..sampler_settings import SamplerSettings
from .hooks import ForwardHook, put_on, take_off
from .pass_context import current_pass
from .target import Target
from .turns import turn_of

S = TypeVar("S", bound=SamplerSettings)


class NetworkHook(ABC, Generic[S]):
    """A hook on one denoiser, put on when it is made.

    Parameters
    ----------
    settings : SamplerSettings
        Read at every call, so that a changed attribute takes effect from the next call on.
    target, scheduler : as for `Target`
    enabled : callable () -> bool
        Whether the hook is enabled now.
    """

    name: ClassVar[str]

    def __init__(self, settings: S, target: Any, scheduler: Any, enabled: Callable[[], bool]) -> None:
        self.settings, self.target, self._enabled = settings, Target(target, scheduler), enabled
        self.target.check_scale(settings.scale)
        with turn_of(self.target.denoiser):  # another thread may have lent layers to its call
            self._prepare()
            put_on(self.target.denoiser, self.name, ForwardHook(self._forward, lambda: repr(settings)))

    def take_off(self) -> None:
        take_off(self.target.denoiser, self.name)

    def described(self) -> str:
        """Describe the target."""
        return f"on {self.target}"

    def _lets_through(self) -> bool:
        """Whether this call runs as if the hook were not there."""
        return not self._enabled() or current_pass().bypass

    @abstractmethod
    def _prepare(self) -> None:
        """Raise for a target or settings that do not fit, and make what the calls need."""

    @abstractmethod
    def _forward(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call of the network in the place of `forward(*args, **kwargs)`."""


__all__ = ["NetworkHook"]
