"""Hold and check the settings of upsample guidance; compute when it acts and the levels to which it reduces.

Scope: numbers and names. Not here: attaching to a pipeline (see `upsample`), calling a network (see `hook`).
Imports neither torch nor diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, get_args

from ...errors import RekernelError
from ...messages.arguments import check_number
from ...text import meant
from ..formulas.blur_band import FilterSplit
from ..formulas.guided import LowBand, Window, octaves
from ..formulas.low_band import ENLARGE, REDUCE, Enlarge, Reduce, Split
from ..formulas.predictions import KINDS, Prediction
from ..formulas.schedules import NoiseSchedule
from ..formulas.sizes import factors_for, low_size
from ..sampler_settings import SamplerSettings

Predictor = Literal["reduced", "rescaled"]
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)
_MOST_THETA = 10.0  # the measured best is 1.5; a larger weight is a slip


@dataclass(eq=False, repr=False)
class GuidanceSettings(SamplerSettings):
    """The settings of `UpsampleGuidance`; that class documents each of them.

    Examples
    --------
    >>> GuidanceSettings(2, theta=1.0, eta=0.6)
    GuidanceSettings(scale=2, theta=1, eta=0.6)
    >>> GuidanceSettings(2, reduce="area", levels=1).given()
    {'scale': 2.0, 'levels': 1}
    """

    theta: float | None = None
    eta: float | None = None
    _: KW_ONLY
    start: float | None = None
    stop: float | None = None
    log_snr: tuple[float, float] | None = None
    schedule: NoiseSchedule | None = None
    prediction: Prediction | None = None
    levels: int | None = None
    reduce: Reduce = "area"
    enlarge: Enlarge | None = None
    predictor: Predictor = "reduced"

    _what: ClassVar[str] = "guidance"
    _not_options: ClassVar[tuple[str, ...]] = ("scale", "log_snr", "schedule", "prediction")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, number in (("theta", self.theta), ("eta", self.eta), ("start", self.start), ("stop", self.stop)):
            if number is not None and number not in (math.inf, -math.inf):
                check_number(number, name, "0.6")
        if self.eta is not None and (self.start is not None or self.stop is not None):
            raise RekernelError("eta= sets when guidance acts, and so do start= and stop=; give one or the other")
        for name, value, known in (
            ("prediction", self.prediction, KINDS), ("reduce", self.reduce, REDUCE),
            ("enlarge", self.enlarge, ENLARGE), ("predictor", self.predictor, PREDICTORS),
        ):  # fmt: skip
            if value is not None and value not in known:
                raise RekernelError(f"{name}={value!r} is not one of {', '.join(known)}{meant(str(value), known)}")
        if self.levels is not None and not (hasattr(self.levels, "__index__") and self.levels >= 1):
            raise RekernelError(f"levels={self.levels!r} must be a whole number of at least 1")
        self.window()  # validate eagerly
        if self.theta is not None and not 0 <= self.theta <= _MOST_THETA:
            raise RekernelError(
                f"theta={self.theta!r} must be a number from 0 (off) to {_MOST_THETA:g}; 1 replaces the low band"
            )

    def window(self, theta: float = 1.0, eta: float = 1.0) -> Window:
        """When guidance acts and how strongly; the arguments are the defaults for settings that are None."""
        if self.eta is not None:
            eta = self.eta
        elif self.start is not None or self.stop is not None or self.log_snr is not None:
            eta = 1.0
        return Window(
            theta if self.theta is None else self.theta,
            eta,
            math.inf if self.start is None else self.start,
            -math.inf if self.stop is None else self.stop,
            (-math.inf, math.inf) if self.log_snr is None else self.log_snr,
        )

    def splits(
        self, size: Sequence[int], trained: Sequence[int] | None = None, multiple: int = 1, enlarge: str = "nearest",
        factors: Sequence[float] | None = None,
    ) -> tuple[LowBand, ...]:  # fmt: skip
        """The reductions between the levels, from the trained size upwards; empty at the trained size.

        Parameters
        ----------
        size : pixels of the requested image, per grid axis
        trained : pixels of the trained size, per grid axis; needed for scale='auto'
        multiple : divisor of height and width that the network requires
        enlarge : U where the setting `enlarge` is None
        factors : size over trained size, per grid axis; by default as the scale says

        Examples
        --------
        >>> [s.low for s in GuidanceSettings(4).splits((64, 64))]
        [(16, 16), (32, 32)]
        """
        factors = factors_for(self.scale, size, trained) if factors is None else tuple(factors)
        if self.predictor == "rescaled":
            return (FilterSplit(tuple(size), factors),) if any(f > 1 for f in factors) else ()
        found: list[LowBand] = []
        above = tuple(size)
        remaining = factors
        for step in reversed(octaves(factors, self.levels)):
            remaining = tuple(r / f for r, f in zip(remaining, step, strict=True))
            # Computed from the full size for each level, so that rounding errors do not add up.
            low = low_size(size, [f / r for f, r in zip(factors, remaining, strict=True)], multiple)
            found.append(Split(above, low, self.reduce, self.enlarge or enlarge))
            above = low
        return tuple(reversed(found))

    def _described(self) -> str:
        said = [super()._described(), *([] if self.theta is None else [f"theta={self.theta:g}"])]
        # Left out: the repr of attached guidance has schedule and prediction in its second part.
        apart = ("scale", "theta", "schedule", "prediction")
        return ", ".join([*said, *(f"{name}={value!r}" for name, value in self.given().items() if name not in apart)])


__all__ = ["PREDICTORS", "GuidanceSettings"]
