"""Run one diffusers transformer with rescaled positions: a hook that lends other tables and queries to each call.

Scope: calls of the denoiser. Not here: the formulas (see `frequencies`), the tables (see `tables`), attaching (see
`rescaled`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import RekernelError
from ..denoiser.call import Call, read_call
from ..denoiser.hooks import POSITIONS, ForwardHook, put_on, take_off
from ..denoiser.pass_context import current_pass
from ..denoiser.pass_scale import scale_of_pass
from ..denoiser.target import Target
from .cropped_table import cropped_table, enlarged_crop
from .frequencies import attention_temperature
from .lending import lent
from .queries import scaled_queries
from .settings import PositionSettings
from .tables import TABLE, Rescaling, position_module, rescaled_tables, table_argument, takes_table


class PositionedDenoiser:
    """The hook of rescaled positions on one denoiser, put on when it is made.

    Parameters
    ----------
    settings : PositionSettings
        Read at every call, so that a changed attribute takes effect from the next call on.
    target, scheduler : as for `Target`
    enabled : callable () -> bool
        Whether rescaled positions are enabled now.
    """

    def __init__(self, settings: PositionSettings, target: Any, scheduler: Any, enabled: Callable[[], bool]) -> None:
        self.settings, self.target, self._enabled = settings, Target(target, scheduler), enabled
        self.target.check_scale(settings.scale)
        self._check_method()
        if settings.method == "dype" and settings.schedule is None:
            self.target.schedule(None, None)  # validate eagerly
        put_on(self.target.denoiser, POSITIONS, ForwardHook(self._forward, lambda: repr(settings)))

    def take_off(self) -> None:
        take_off(self.target.denoiser, POSITIONS)

    def described(self) -> str:
        """Describe the target."""
        return f"on {self.target} (experimental)"

    def _check_method(self) -> None:
        """Raise for a network without known positions, and for a method that they do not allow."""
        network = self.target.network
        if cropped_table(network) is not None:
            if self.settings.method != "interpolate":
                raise RekernelError(
                    f"{self.target}: method={self.settings.method!r} needs rotary positions, and this network has a "
                    f"table; pass method='interpolate'"
                )
        elif position_module(network) is None and not takes_table(network):
            raise RekernelError(
                f"{self.target}: has no positions that rekernel knows how to rescale; for the kernels of a UNet, use "
                f"SupersampledKernels"
            )

    def _forward(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._enabled() or current_pass().bypass:
            return forward(*args, **kwargs)
        self.target.check()
        self._check_method()
        call = read_call(self.target.denoiser, args, kwargs, self.target.noisy)
        scales = scale_of_pass(self.settings.scale, call.size, self.target.trained)
        if all(s == 1 for s in scales):
            return forward(*args, **kwargs)
        network, rescaling = self.target.network, self._rescaling(call, scales)
        factor = attention_temperature(math.prod(call.tokens), math.prod(scales), self.settings.temperature)
        loans = scaled_queries(network, factor)
        if takes_table(network):
            given = call.arguments.get(TABLE)
            call = call if given is None else call.with_arguments(table_argument(rescaling, given))
            with lent(loans):
                return call.run(forward)
        part = cropped_table(network)
        loans.append(rescaled_tables(network, rescaling) if part is None else enlarged_crop(part, scales))
        with lent(loans):
            return forward(*args, **kwargs)

    def _rescaling(self, call: Call, scales: tuple[float, ...]) -> Rescaling:
        missing = 3 - len(scales)
        tokens = (1,) * missing + call.tokens
        return Rescaling((1.0,) * missing + scales, tokens, self.settings.method, self._noise(call))

    def _noise(self, call: Call) -> float:
        """The noise level sigma / (alpha + sigma) of the call; for 'dype'."""
        if self.settings.method != "dype":
            return 1.0
        schedule = self.settings.schedule or self.target.schedule(None, None)[0]
        snr = np.asarray(schedule.log_snr(call.t), np.float64)
        return float(np.max(1 / (1 + np.exp(snr / 2))))
