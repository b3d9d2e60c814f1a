"""Upsample guidance, cascades, rescaled kernels and rescaled positions for diffusion samplers, and their measure."""

from typing import TYPE_CHECKING, Any

from ..messages.missing_name import missing_name
from .applying import apply, detach
from .cascade.guided_cascade import GuidedCascade
from .formulas.guided import Window, guided_prediction, guided_x0, octaves
from .formulas.low_band import Split, block_split
from .formulas.matching import low_band_power, match, matched_time
from .formulas.predictions import from_x0, to_x0
from .formulas.schedules import DiscreteSchedule, EDMSchedule, FlowSchedule, NoiseSchedule, SigmaSchedule, VPSchedule
from .guidance.upsample import UpsampleGuidance
from .guidance.wrapper import guide_denoiser
from .kernels.supersampled import SupersampledKernels
from .pipelines.load import load_pipeline
from .pipelines.record import Recorded
from .pipelines.write_record import record
from .positions.rescaled import RescaledPositions

if TYPE_CHECKING:
    from .measure.denoiser_verification import AtTime, DenoiserVerification, verify_denoiser

__all__ = [
    "AtTime",
    "DenoiserVerification",
    "DiscreteSchedule",
    "EDMSchedule",
    "FlowSchedule",
    "GuidedCascade",
    "NoiseSchedule",
    "Recorded",
    "RescaledPositions",
    "SigmaSchedule",
    "Split",
    "SupersampledKernels",
    "UpsampleGuidance",
    "VPSchedule",
    "Window",
    "apply",
    "block_split",
    "detach",
    "from_x0",
    "guide_denoiser",
    "guided_prediction",
    "guided_x0",
    "load_pipeline",
    "low_band_power",
    "match",
    "matched_time",
    "octaves",
    "record",
    "to_x0",
    "verify_denoiser",
]


def __getattr__(name: str) -> Any:
    """Import the measure when first asked for: it runs networks, so it imports torch."""
    if name not in ("AtTime", "DenoiserVerification", "verify_denoiser"):
        raise missing_name(__name__, name)
    from .measure import denoiser_verification

    return getattr(denoiser_verification, name)


def __dir__() -> list[str]:
    return sorted(__all__)
