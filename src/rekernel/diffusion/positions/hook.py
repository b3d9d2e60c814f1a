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
from ...torch.surroundings import own_tensors
from ..denoiser.call import Call, read_call
from ..denoiser.hooks import POSITIONS
from ..denoiser.network_hook import NetworkHook
from ..denoiser.pass_scale import scale_of_pass
from .cropped_table import EnlargedCrop, cropping_part
from .frequencies import attention_temperature
from .lending import Loan, lent
from .queries import ScaledQueries
from .settings import PositionSettings
from .tables import Rescaling, Table, make_table, position_module


class PositionedDenoiser(NetworkHook[PositionSettings]):
    """The hook of rescaled positions on one denoiser."""

    name = POSITIONS

    def _prepare(self) -> None:
        self._check_method()
        if self.settings.method == "dype" and self.settings.schedule is None:
            self.target.schedule(None, None)  # validate eagerly
        self._queries = ScaledQueries(self.target.network)
        self._tables: dict[Any, Any] = {}

    def described(self) -> str:
        """Describe the target."""
        return f"on {self.target} (experimental)"

    def _check_method(self) -> None:
        """Raise for a network without known positions, and for a method that they do not allow."""
        network = self.target.network
        if cropping_part(network) is not None:
            if self.settings.method != "interpolate":
                raise RekernelError(
                    f"{self.target}: method={self.settings.method!r} needs rotary positions, and this network has a "
                    f"table; pass method='interpolate'"
                )
        elif position_module(network) is None:
            instead = (
                "SupersampledKernels would not act on it either, so use UpsampleGuidance or a GuidedCascade"
                if self.target.experimental
                else "for the kernels of a UNet, use SupersampledKernels"
            )
            raise RekernelError(f"{self.target}: has no positions that rekernel knows how to rescale; {instead}")

    def _forward(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._lets_through():
            return forward(*args, **kwargs)
        self.target.check()
        self._check_method()
        call = read_call(self.target.denoiser, args, kwargs, self.target.noisy)
        if self._is_idle(call.size):
            return forward(*args, **kwargs)
        scales = scale_of_pass(self.settings.scale, call.size, self.target.usual)
        if all(s == 1 for s in scales):
            return forward(*args, **kwargs)
        factor = attention_temperature(math.prod(call.tokens), math.prod(scales), self.settings.temperature)
        with lent([*self._positions(call, scales), *self._queries.times(factor)]):
            return self._with_argument(call, scales).run(forward)

    def _positions(self, call: Call, scales: tuple[float, ...]) -> list[Loan]:
        network = self.target.network
        part = cropping_part(network)
        if part is not None:
            crop = self._kept((call.tokens, scales), lambda: EnlargedCrop(part, call.tokens, scales))
            crop.update()
            return [Loan(part, "cropped_pos_embed", crop)]
        module = position_module(network)
        if module is network:
            return []
        table = self._table(call, scales)
        # A callable that is not a module is an attribute of the network.
        owner = network if getattr(network, table.attribute, None) is module else module
        return [Loan(owner, table.attribute, table)]

    def _with_argument(self, call: Call, scales: tuple[float, ...]) -> Call:
        """The call with another table, where the pipeline passes one."""
        network = self.target.network
        if position_module(network) is not network:
            return call
        table: Any = self._table(call, scales)
        given = call.arguments.get(table.attribute)
        return call if given is None else call.with_arguments({table.attribute: table.argument(given)})

    def _table(self, call: Call, scales: tuple[float, ...]) -> Table:
        missing = 3 - len(scales)
        tokens = (1,) * missing + call.tokens
        rescaling = Rescaling((1.0,) * missing + scales, tokens, self.settings.method, self._noise(call))
        key = (tokens, rescaling.scales)
        table: Table = self._kept(key, lambda: make_table(self.target.network, rescaling, call))
        table.update(rescaling, call)
        return table

    def _kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made for this key in an earlier call, or what `make` makes."""
        if key not in self._tables:
            with own_tensors():  # not those of inference mode, which could not be overwritten later
                self._tables[key] = make()
        return self._tables[key]

    def _noise(self, call: Call) -> float:
        """The noise level sigma / (alpha + sigma) of the call, the highest one of a batch; for 'dype'."""
        if self.settings.method != "dype":
            return 1.0
        schedule = self.settings.schedule or self.target.schedule(None, None)[0]
        snr = np.asarray(schedule.log_snr(call.t), np.float64)
        return float(np.max(1 / (1 + np.exp(snr / 2))))
