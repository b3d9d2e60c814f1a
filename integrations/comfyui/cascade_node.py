"""The node *Guided Cascade Stage*: a second pass at a larger size, for the stock KSampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rekernel.diffusion.cascade.enlarging import resized

from .inputs import CATEGORY, LEVELS, SCALE, STRENGTH, TRAINED_SIZE, end_percent, start_percent
from .sampling import patched
from .settings import Guidance, Share, Size


class RekernelCascadeStage:
    """Enlarges a finished latent, and guides the model that samples it again.

    The stock KSampler does the rest, with the same `denoise`: it adds the noise and samples the end of the schedule, in
    all of its steps.
    """

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "A second pass at a larger size (hires fix) that keeps the layout: enlarges a finished latent, and guides the "
        "model while a KSampler samples the enlarged latent again. Connect all three outputs to a KSampler, and give "
        "it steps x denoise steps: it makes all of its steps."
    )
    RETURN_TYPES = ("MODEL", "LATENT", "FLOAT")
    RETURN_NAMES = ("model", "latent", "denoise")
    OUTPUT_TOOLTIPS = (
        "The guided model, for the KSampler of this stage.", "The enlarged latent.",
        "The denoise of the KSampler: convert its widget to an input.",
    )  # fmt: skip
    FUNCTION = "stage"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        of = "the part of the schedule that this stage runs"
        when = "rekernel calls it eta; it counts in this stage alone."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model of the first sampler. It does not change."}),
                "samples": ("LATENT", {"tooltip": "The finished latent of the sampler before."}),
                "enlarge": ("FLOAT", {
                    "default": 2.0, "min": 1.0, "max": 8.0, "step": 0.05,
                    "tooltip": "New size divided by the size of the latent; 1 where the latent is large already, for "
                               "example encoded from an enlarged picture.",
                }),
                "scale": SCALE,
                "denoise": ("FLOAT", {
                    "default": 0.5, "min": 0.01, "max": 1.0, "step": 0.01,
                    "tooltip": "The denoise of the KSampler behind this node; connect the output.",
                }),
                "strength": STRENGTH,
                "end_percent": end_percent("guidance", 0.6, when, of),
                "levels": LEVELS,
                "start_percent": start_percent("guidance", of),
                "trained_size": TRAINED_SIZE,
            }
        }  # fmt: skip

    def stage(
        self, model: Any, samples: Mapping[str, Any], enlarge: float, scale: float, denoise: float, strength: float,
        end_percent: float, levels: int, start_percent: float, trained_size: int,
    ) -> tuple[Any, dict[str, Any], float]:  # fmt: skip
        """Return a guided clone of `model`, the enlarged latent, and `denoise` for the KSampler."""
        latent: Tensor = samples["samples"]
        size = tuple(2 * max(1, round(n * enlarge / 2)) for n in latent.shape[-2:])  # even: Flux pairs its pixels
        made = {**samples, "samples": resized(latent, (size[0], size[1]))}
        when = Share(start_percent, end_percent, of_run=True)
        guidance = Guidance(Size(scale, trained_size), strength, when, levels or None)
        return patched(model, guidance=guidance), made, denoise
