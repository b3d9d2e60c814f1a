"""Run one diffusers denoiser with rescaled kernels: a hook that replaces layers during each call.

Scope: calls of the denoiser. Not here: which layers are rescaled and when (see `settings`), making the layers (see
`denoiser/substitutes`), attaching (see `supersampled`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...errors import RekernelError
from ..denoiser.call import Call, read_call
from ..denoiser.hooks import KERNELS, ForwardHook, put_on, take_off
from ..denoiser.pass_context import current_pass
from ..denoiser.pass_scale import scale_of_pass
from ..denoiser.substitutes import KernelBank, Substitute, lent, plain_name
from ..denoiser.target import Target
from ..denoiser.turns import turn_of
from .settings import KernelSettings


class SwitchedDenoiser:
    """The hook of rescaled kernels on one denoiser, put on when it is made.

    Parameters
    ----------
    settings : KernelSettings
        Read at every call, so that a changed attribute takes effect from the next call on.
    target, scheduler : as for `Target`
    enabled : callable () -> bool
        Whether rescaled kernels are enabled now.
    """

    def __init__(self, settings: KernelSettings, target: Any, scheduler: Any, enabled: Callable[[], bool]) -> None:
        self.settings, self.target, self._enabled = settings, Target(target, scheduler), enabled
        self.target.check_scale(settings.scale)
        if settings.timed and settings.schedule is None:
            self.target.schedule(None, None)  # validate eagerly
        self.bank = KernelBank(self.target.denoiser)
        with turn_of(self.target.denoiser):  # guidance may have lent layers to the call of another thread
            self.bank.patterns(settings.layers)
            put_on(self.target.denoiser, KERNELS, ForwardHook(self._forward, lambda: repr(settings)))

    def take_off(self) -> None:
        take_off(self.target.denoiser, KERNELS)

    def described(self) -> str:
        """Describe the target."""
        return f"on {self.target}"

    def _forward(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._enabled() or current_pass().bypass:
            return forward(*args, **kwargs)
        self.target.check()
        call = read_call(self.target.denoiser, args, kwargs, self.target.noisy)
        substitutes = self._substitutes(call)
        damped = self.settings.noise_damped and bool(substitutes)
        if damped and len(call.x) % 2:
            raise RekernelError(
                f"noise_damped needs a batch of negative and positive halves; this one has {len(call.x)} samples. "
                f"Use classifier-free guidance, or noise_damped=False"
            )
        with lent(substitutes):
            output = forward(*args, **kwargs)
        return self._damped(forward, call, output) if damped else output

    def _substitutes(self, call: Call) -> tuple[Substitute, ...]:
        settings = self.settings
        factors = scale_of_pass(settings.scale, call.size, self.target.usual)
        fraction = 1.0
        if settings.timed:
            schedule = settings.schedule or self.target.schedule(None, None)[0]
            fraction = float(schedule.fraction(call.t).max())
            if not isinstance(settings.until, Mapping) and not _acts(fraction, settings.until):
                return ()
            factors = settings.factors_at(factors, fraction)
        method = settings.method_at(factors)
        if method is None or all(f == 1 for f in factors):
            return ()
        made = self.bank.substitutes(call, factors, settings.layers, method, settings.form)
        return tuple(s for s in made if _acts(fraction, settings.share(plain_name(f"{s.path}.weight"))))

    def _damped(self, forward: Callable[..., Any], call: Call, output: Any) -> Any:
        """The negative half from the original kernels, plus the difference of the halves from the rescaled kernels."""
        negative, positive = call.prediction(output).chunk(2)
        plain = call.prediction(call.run(forward)).chunk(2)[0]
        return call.with_prediction(output, torch.cat([plain, plain + (positive - negative)]))


def _acts(fraction: float, share: float) -> bool:
    """Whether a time, as a fraction of the schedule, lies in that share of it, counted from its noisy end."""
    return fraction >= 1 - share - 1e-9
