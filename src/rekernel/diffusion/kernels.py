"""Rescaled kernels in a sampler: switched on by time, per layer, without a second copy of the weights.

Knows when and which; the layers are `bank`'s. Noise-damped guidance and shrinking scales follow ScaleCrafter's
sampler (arXiv 2310.07702); kernels other than dilated ones are arXiv 2605.08698's subject, their design ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RekernelError
from ..operators import canonical_method
from ..selection import matcher
from .attachable import Attachable
from .scales import checked_scale, shown_scale
from .schedules import NoiseSchedule

FORMS = ("factored", "dense", "auto")


class SupersampledKernels(Attachable):
    """Run a denoiser above its trained size with kernels rescaled to that size.

    Calls at the trained size (the low-resolution pass of upsample guidance) run with the original kernels, calls in
    between (its nested levels) with kernels of their own scale.

    Parameters
    ----------
    scale : number, one per grid axis, or 'auto'
        Requested size over trained size, as for `UpsampleGuidance`.
    layers : str or sequence of patterns
        'inner' (everything below the finest level), 'all', or patterns on parameter names.
    method : str, or {scale: str or None}
        As for `rekernel.torch.rescale`; 'dilate' is ScaleCrafter's kernel. A mapping gives each nested scale its own;
        None, or a scale that is not named, leaves the kernels as they are.
    until : float, or {pattern: float}
        Share of the schedule, from the noisy end, in which kernels are rescaled; by layer where a mapping is given
        (its first match counts, and a layer without one is rescaled throughout).
    progressive : bool
        Shrink the scale over that share, step by step down to 2, as ScaleCrafter does.
    noise_damped : bool
        Take the negative half of a classifier-free batch from the original kernels and only the difference between
        the halves from the rescaled ones. Costs one more pass.
    form : {'factored', 'dense', 'auto'}
        'factored' has no second copy of the weights; broken scales are dense in any case.
    schedule : NoiseSchedule, optional
        Read from the pipeline's scheduler by default.

    Examples
    --------
    >>> SupersampledKernels(2, until=0.7)
    SupersampledKernels(scale=2, layers='inner', method='optimal', until=0.7; not attached)
    """

    def __init__(
        self,
        scale: float | Sequence[float] | str = "auto",
        layers: str | Sequence[str] = "inner",
        method: str | Mapping[float, str | None] = "optimal",
        *,
        until: float | Mapping[str, float] = 1.0,
        progressive: bool = False,
        noise_damped: bool = False,
        form: str = "factored",
        schedule: NoiseSchedule | None = None,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise RekernelError(f"form={form!r} is not one of {', '.join(FORMS)}")
        if not isinstance(layers, Sequence) or not all(isinstance(pattern, str) for pattern in layers):
            raise RekernelError(f"layers={layers!r} must be a preset's name, 'all', or a list of patterns")
        for name in method.values() if isinstance(method, Mapping) else (method,):
            if name is not None:
                canonical_method(name)
        for share in until.values() if isinstance(until, Mapping) else (until,):
            if not 0 <= share <= 1:
                raise RekernelError(f"until={until}: a share must be between 0 (never) and 1 (in every step)")
        self.scale, self.layers, self.method, self.form = checked_scale(scale), layers, method, form
        self.until, self.progressive, self.noise_damped = until, progressive, noise_damped
        self.schedule = schedule

    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        from .switched import SwitchedDenoiser

        return SwitchedDenoiser(self, target, scheduler)

    @property
    def timed(self) -> bool:
        """Whether anything depends on the time."""
        return self.progressive or self.until != 1.0

    def method_at(self, factors: Sequence[float]) -> str | None:
        """The method for kernels at so many times the trained size; None leaves them."""
        if not isinstance(self.method, Mapping):
            return self.method
        largest = max(factors)
        return next((m for s, m in self.method.items() if math.isclose(s, largest, rel_tol=0.05)), None)

    def share(self, name: str) -> float:
        """The share of the schedule in which the layer of parameter `name` is rescaled."""
        if not isinstance(self.until, Mapping):
            return self.until
        return next((share for pattern, share in self.until.items() if matcher(pattern)(name)), 1.0)

    def factors_at(self, factors: Sequence[float], fraction: float) -> tuple[float, ...]:
        """The scale of the kernels at a time, 1 being the noisiest: `factors`, or less of it where it shrinks."""
        if not self.progressive:
            return tuple(factors)
        share = self.until if not isinstance(self.until, Mapping) else max(self.until.values())
        left = max(0.0, 1 - (1 - fraction) / share) if share else 0.0
        return tuple(max(min(2.0, f), float(math.ceil(f * left))) if f > 1 else f for f in factors)

    def __repr__(self) -> str:
        said = [f"scale={shown_scale(self.scale)}", f"layers={self.layers!r}", f"method={self.method!r}"]
        usual: dict[str, Any] = {"until": 1.0, "progressive": False, "noise_damped": False, "form": "factored"}
        said += [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        return f"SupersampledKernels({', '.join(said)}; {self._where()})"


__all__ = ["SupersampledKernels"]
