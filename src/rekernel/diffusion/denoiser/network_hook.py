"""The base class of the hooks that guidance, kernels and positions put on a denoiser.

Scope: putting on, taking off, and when a hook lets a call through. Not here: the work of a hook (see `guidance/hook`,
`kernels/hook`, `positions/hook`), the place of a hook on the network (see `hooks`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from ...messages.warn import tell
from ...text import scale_text
from ..formulas.sizes import above_trained, factors_for
from ..sampler_settings import SamplerSettings
from .attached import asked_size
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
        self._warned = False
        with turn_of(self.target.denoiser):  # another thread may have lent layers to its call
            self._prepare()
            put_on(self.target.denoiser, self.name, ForwardHook(self._forward, lambda: repr(settings), settings))

    def take_off(self) -> None:
        take_off(self.target.denoiser, self.name)

    def described(self) -> str:
        """Describe the target."""
        return f"on {self.target}"

    def brief(self) -> str:
        """What the settings come to on this target, for a person; nothing where they say all themselves."""
        return ""

    def _lets_through(self) -> bool:
        """Whether this call runs as if the hook were not there."""
        return not self._enabled() or current_pass().bypass

    def _factors(self, size: Sequence[int]) -> tuple[float, ...]:
        """The size of a call over the trained size, per grid axis: as the scale says, but none below the trained size.

        Warns, once, where the picture is no larger than the trained one, or less so than the scale says.

        Parameters
        ----------
        size : pixels of the call, per grid axis
        """
        scale, trained = self.settings.scale, self.target.usual
        known = trained if scale == "auto" else self.target.compared
        asked = factors_for(scale, size, trained)
        used = above_trained(asked, size, known)
        idle = all(f == 1 for f in used)
        if known is not None and (idle or used != asked) and not self._warned:
            self._warned = True
            sizes = f"{self.target.pixels(size)}, and {self.target} was trained at {self.target.pixels(known)}"
            wanted = asked_size(self.target.pipe)
            larger = "height= and width= of a larger picture"
            if wanted is not None:
                larger = f"height={wanted[0]}, width={wanted[1]} to the pipeline for the size that apply was given"
            done = f"it does nothing; pass {larger}"
            if not idle:
                done = f"it takes the scale {scale_text(used)} instead of {scale_text(asked)}; scale='auto' always does"
            tell([f"{type(self.settings).__name__}: this picture has {sizes}, so {done}"])
        return used

    def _is_idle(self, size: Sequence[int]) -> bool:
        """Whether a call, which is not a reduced pass of guidance, is no larger than the trained size."""
        scale, reduced = self.settings.scale, current_pass().reduced
        known = self.target.usual if scale == "auto" else self.target.compared
        if reduced or known is None or len(size) < len(known):
            return False
        return all(f == 1 for f in factors_for("auto", size, known)) and all(f == 1 for f in self._factors(size))

    @abstractmethod
    def _prepare(self) -> None:
        """Raise for a target or settings that do not fit, and make what the calls need."""

    @abstractmethod
    def _forward(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call of the network in the place of `forward(*args, **kwargs)`."""


__all__ = ["NetworkHook"]
