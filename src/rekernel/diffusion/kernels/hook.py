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
from ..denoiser.hooks import KERNELS
from ..denoiser.network_hook import NetworkHook
from ..denoiser.pass_scale import scale_of_pass
from ..denoiser.substitutes import KernelBank, Substitute, lent, plain_name
from .settings import KernelSettings


class SwitchedDenoiser(NetworkHook[KernelSettings]):
    """The hook of rescaled kernels on one denoiser."""

    name = KERNELS

    def _prepare(self) -> None:
        if self.settings.timed and self.settings.schedule is None:
            self.target.schedule(None, None)  # validate eagerly
        self.bank = KernelBank(self.target.denoiser)
        self.bank.patterns(self.settings.layers)

    def _forward(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._lets_through():
            return forward(*args, **kwargs)
        self.target.check()
        call = read_call(self.target.denoiser, args, kwargs, self.target.noisy)
        if self._is_idle(call.size):
            return forward(*args, **kwargs)
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
