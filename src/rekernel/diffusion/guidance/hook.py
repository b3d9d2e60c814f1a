"""Guide one diffusers denoiser: a hook that calls the original forward once for each level.

Scope: calls of the denoiser. Not here: the formulas (see `formulas/guided`), the settings (see `settings`), attaching
(see `upsample`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...errors import RekernelError
from ...messages.warn import tell
from ..denoiser.call import Call, read_call
from ..denoiser.conditions import check_reducible
from ..denoiser.hooks import GUIDANCE
from ..denoiser.network_hook import NetworkHook
from ..denoiser.pass_context import running
from ..denoiser.substitutes import ALL, KernelBank, lent
from ..denoiser.target import LATENT, PIXELS
from ..formulas.guided import guided_prediction
from .settings import GuidanceSettings


class GuidedDenoiser(NetworkHook[GuidanceSettings]):
    """The hook of guidance on one denoiser."""

    name = GUIDANCE

    def _prepare(self) -> None:
        check_reducible(self.target.network)
        if self.settings.theta != 0:
            self._validate()
            self._check_defaults()
        self.bank = KernelBank(self.target.denoiser)

    def _validate(self) -> None:
        """Raise for a schedule that is not known, and for a window whose ends are swapped in this schedule."""
        schedule, _ = self.target.schedule(self.settings.schedule, self.settings.prediction)
        self.settings.window().weight(schedule, schedule.end)

    def _check_defaults(self) -> None:
        """Warn where a default depends on the pipeline, and the network alone does not tell it."""
        settings, target = self.settings, self.target
        timed = any(value is not None for value in (settings.eta, settings.start, settings.stop, settings.log_snr))
        if target.pipe is not None or target.latent or (settings.theta is not None and timed):
            return
        theta, eta, _ = target.defaults
        tell(
            [
                f"{target} may make the pixels of a picture or the latents of a VAE, which it does not tell: theta "
                f"{theta:g} and eta {eta:g} are taken. Attach to the pipeline, which tells it, or pass theta= and eta= "
                f"({PIXELS[0]:g} and {PIXELS[1]:g} for pixels, {LATENT[0]:g} and {LATENT[1]:g} for latents)"
            ]
        )

    def brief(self) -> str:
        """Theta and eta, with the defaults of this target."""
        theta, eta, _ = self.target.defaults
        window = self.settings.window(theta, eta)
        return f"theta {window.theta:g}, eta {window.eta:g}{' (experimental)' if self.target.experimental else ''}"

    def described(self) -> str:
        """Describe what guidance will do on this target."""
        try:
            schedule, kind = self.target.schedule(self.settings.schedule, self.settings.prediction)
        except RekernelError as error:  # the pipeline's scheduler was exchanged
            return f"on {self.target}; it cannot act: {error}"
        theta, eta, enlarge = self.target.defaults
        window = self.settings.window(theta, eta)
        said = f"theta {window.theta:g}, eta {window.eta:g}, U {self.settings.enlarge or enlarge}"
        where = f"{self.target} (experimental)" if self.target.experimental else f"{self.target}"
        return f"on {where}, {kind}, {schedule!r}, {said}"

    def _forward(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        settings = self.settings
        if self._lets_through() or settings.theta == 0:
            return forward(*args, **kwargs)
        call = read_call(self.target.denoiser, args, kwargs, self.target.noisy)
        theta, eta, enlarge = self.target.defaults
        splits = settings.splits(call.size, None, call.multiple, enlarge, self._factors(call.size))
        if not splits:
            return forward(*args, **kwargs)
        self.target.check()
        schedule, kind = self.target.schedule(settings.schedule, settings.prediction)
        calls: list[Call] = [call]
        for split in reversed(splits):
            calls.append(calls[-1].reduced(split))
        calls.reverse()
        output: Any = None

        def predict(x: Tensor, t: Any, level: int) -> Tensor:
            nonlocal output
            if level == len(splits):
                output = forward(*args, **kwargs)
                return call.prediction(output)
            below = calls[level].at(x, t)
            if settings.predictor == "rescaled":
                return below.prediction(self._rescaled(forward, below))
            with running(tuple(n / m for n, m in zip(call.size, below.size, strict=True))):
                return below.prediction(below.run(forward))

        window = settings.window(theta, eta)
        before = call.x
        guided = guided_prediction(predict, before, call.t, splits, schedule=schedule, kind=kind, window=window)
        return output if not window.weight(schedule, call.t).any() else call.with_prediction(output, guided)

    def _rescaled(self, forward: Callable[..., Any], call: Call) -> Any:
        """Run the network with every kernel rescaled, on the full grid."""
        factors = self._factors(call.size)
        made = self.bank.substitutes(call, factors, ALL, "optimal", "factored")
        with running(bypass=True), lent(made):
            return call.run(forward)
