"""Hold and check the settings of rescaled kernels in a sampler; compute which kernels run at which time.

Scope: numbers, names and patterns. Not here: attaching to a pipeline (see `supersampled`), the layers (see
`denoiser/substitutes`). Imports neither torch nor diffusers. Noise-damped guidance and shrinking scales follow
ScaleCrafter's sampler (arXiv 2310.07702).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

from ...errors import RekernelError
from ...patterns import matcher
from ...plan.changes import FORMS, Form
from ...resampling.methods import Alias, KernelMethod, canonical_method
from ..formulas.schedules import NoiseSchedule
from ..formulas.sizes import Scale
from ..sampler_settings import SamplerSettings


@dataclass(eq=False, repr=False)
class KernelSettings(SamplerSettings):
    """The settings of `SupersampledKernels`; that class documents each of them.

    Examples
    --------
    >>> KernelSettings(2, until=0.7)
    KernelSettings(scale=2, layers='inner', method='optimal', until=0.7)
    >>> KernelSettings(2, "all", progressive=False).given()
    {'scale': 2.0, 'layers': 'all'}
    """

    layers: str | Sequence[str] = "inner"
    method: KernelMethod | Alias | Mapping[float, KernelMethod | Alias | None] = "optimal"
    _: KW_ONLY
    until: float | Mapping[str, float] = 1.0
    progressive: bool = False
    noise_damped: bool = False
    form: Form = "factored"
    schedule: NoiseSchedule | None = None

    _what: ClassVar[str] = "kernels"
    _not_options: ClassVar[tuple[str, ...]] = ("scale", "schedule")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in FORMS:
            raise RekernelError(f"form={self.form!r} is not one of {', '.join(FORMS)}")
        if not isinstance(self.layers, Sequence) or not all(isinstance(pattern, str) for pattern in self.layers):
            raise RekernelError(f"layers={self.layers!r} must be a preset's name, 'all', or a list of patterns")
        for name in self.method.values() if isinstance(self.method, Mapping) else (self.method,):
            if name is not None:
                canonical_method(name)
        for share in self.until.values() if isinstance(self.until, Mapping) else (self.until,):
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                kind = "" if isinstance(share, int | float) else "a number "
                raise RekernelError(
                    f"until={self.until!r}: a share must be {kind}between 0 (never) and 1 (in every step)"
                )

    @classmethod
    def from_options(cls, scale: Scale, options: Mapping[str, Any]) -> Self:
        """Make settings from a scale and options by name; a mapping `method` may have scales as text, as in JSON."""
        cls._check_options(options)
        method = options.get("method")
        if isinstance(method, Mapping):
            options = {**options, "method": {float(at): name for at, name in method.items()}}
        return cls(scale, **options)

    @property
    def timed(self) -> bool:
        """Whether the kernels depend on the time."""
        return self.progressive or self.until != 1.0

    def method_at(self, factors: Sequence[float]) -> str | None:
        """The method for kernels at `factors` times the trained size; None leaves the kernels as they are."""
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
        """The scale of the kernels at a time (1 is the noisiest): `factors`, or less where the scale shrinks."""
        if not self.progressive:
            return tuple(factors)
        share = self.until if not isinstance(self.until, Mapping) else max(self.until.values())
        left = max(0.0, 1 - (1 - fraction) / share) if share else 0.0
        return tuple(max(min(2.0, f), float(math.ceil(f * left))) if f > 1 else f for f in factors)

    def _described(self) -> str:
        said = [super()._described(), f"layers={self.layers!r}", f"method={self.method!r}"]
        # Left out: the schedule, which is usually the pipeline's.
        apart = ("scale", "layers", "method", "schedule")
        return ", ".join([*said, *(f"{name}={value!r}" for name, value in self.given().items() if name not in apart)])
