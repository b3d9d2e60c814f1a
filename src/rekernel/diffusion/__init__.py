"""Upsample guidance and rescaled kernels for diffusion samplers."""

from .bands import Split, block_split
from .guided import Window, guided_prediction, guided_x0, octaves
from .kernels import SupersampledKernels
from .matching import low_band_power, match, matched_time
from .pipelines import load_pipeline
from .predictions import from_x0, to_x0
from .recorded import Recorded
from .recording import record
from .schedules import DiscreteSchedule, EDMSchedule, FlowSchedule, NoiseSchedule, SigmaSchedule, VPSchedule
from .upsample import UpsampleGuidance
from .wrapper import guide_denoiser

__all__ = [
    "DiscreteSchedule",
    "EDMSchedule",
    "FlowSchedule",
    "NoiseSchedule",
    "Recorded",
    "SigmaSchedule",
    "Split",
    "SupersampledKernels",
    "UpsampleGuidance",
    "VPSchedule",
    "Window",
    "block_split",
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
]
