"""Hold and check the settings of rescaled positions.

Scope: numbers and names. Not here: attaching to a pipeline (see `rescaled`), calling a network (see `hook`).
Imports neither torch nor diffusers.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from ...errors import RekernelError
from ..formulas.schedules import NoiseSchedule
from ..sampler_settings import SamplerSettings
from .frequencies import PositionMethod, check_method


@dataclass(eq=False, repr=False)
class PositionSettings(SamplerSettings):
    """The settings of `RescaledPositions`; that class documents each of them.

    Examples
    --------
    >>> PositionSettings(2, "yarn")
    PositionSettings(scale=2, method='yarn', temperature=1)
    >>> PositionSettings(2, temperature=False).given()
    {'scale': 2.0, 'temperature': 0.0}
    """

    method: PositionMethod = "interpolate"
    temperature: float = 1.0
    _: KW_ONLY
    schedule: NoiseSchedule | None = None

    _what: ClassVar[str] = "positions"
    _not_options: ClassVar[tuple[str, ...]] = ("scale", "schedule")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_method(self.method)
        if not isinstance(self.temperature, int | float) or not 0 <= self.temperature < math.inf:
            raise RekernelError(
                f"temperature={self.temperature!r} must be True, False, or a power of log n / log n_trained (0 or more)"
            )
        self.temperature = float(self.temperature)

    def _described(self) -> str:
        # Left out: the schedule, which is usually the pipeline's.
        return f"{super()._described()}, method={self.method!r}, temperature={self.temperature:g}"


__all__ = ["PositionSettings"]
