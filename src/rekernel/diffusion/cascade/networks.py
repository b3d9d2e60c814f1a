"""Find the networks of a pipeline that a cascade guides and counts: one, or the two of Wan 2.2.

Scope: which attributes hold them, and attaching to each. Not here: reading a network (see `denoiser/target`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ...errors import RekernelError
from ..caller import calling
from ..denoiser.attachable import Attachable
from ..denoiser.hooks import GUIDANCE, KERNELS, POSITIONS, ForwardHook, hook_on
from ..denoiser.names import DENOISERS, SECOND
from ..denoiser.target import LATENT, Target
from ..denoiser.turns import cascade_turn_of
from .passes import Passes


class Networks:
    """The denoisers of a pipeline; a second one takes over at the cleaner times.

    Parameters
    ----------
    pipe : a pipeline

    Attributes
    ----------
    main : Target of the first one
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        names = [name for name in (*DENOISERS, *SECOND) if isinstance(getattr(pipe, name, None), nn.Module)]
        self._both = [getattr(pipe, name) for name in names] if any(name in SECOND for name in names) else []
        self.main = Target(self._both[0], pipe.scheduler) if self._both else Target(pipe)

    @property
    def eta(self) -> float:
        """The default share of the schedule in which guidance acts."""
        return LATENT[1] if self._both else self.main.defaults[1]

    @property
    def targets(self) -> list[tuple[Any, Any]]:
        """The arguments of `attach`: the pipeline, or each of its two networks with the scheduler."""
        return [(network, self.pipe.scheduler) for network in self._both] or [(self.pipe, None)]

    @property
    def attached(self) -> ForwardHook | None:
        """Guidance, kernels or positions that are on one of the networks now, or None."""
        networks = [module for n in self._both or [self.main.denoiser] for module in (n, getattr(n, "_orig_mod", n))]
        found = (hook_on(module, name) for module in networks for name in (GUIDANCE, KERNELS, POSITIONS))
        return next((hook for hook in found if hook is not None), None)

    def check_bare(self) -> None:
        """Raise where something is attached: it would act in every stage, in the first one too."""
        if (hook := self.attached) is not None:
            raise RekernelError(
                f"{type(self.main.network).__name__} has {hook!r} attached already; take it off first: remove() it, or "
                f"rekernel.diffusion.detach(pipe); a cascade attaches its own parts at each stage"
            )

    def attach(self, stack: ExitStack, make: Callable[[], Sequence[Attachable]]) -> None:
        """Attach what `make()` returns to each network, for as long as `stack` is open."""
        for target, scheduler in self.targets:
            for part in make():
                stack.enter_context(part.attach(target, scheduler=scheduler))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let hooks that are put on inside the `with` block act in its own calls alone, and other cascades wait."""
        with cascade_turn_of(self._both or [self.main.denoiser]), calling(object()):
            yield

    def count(self, stack: ExitStack, passes: Passes) -> None:
        """Count the passes of each network, for as long as `stack` is open."""
        for network in self._both or [self.main.denoiser]:
            stack.enter_context(passes.counted(network))


__all__ = ["Networks"]
