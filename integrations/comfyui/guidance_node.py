"""The node *Upsample Guidance*: a MODEL that draws large pictures with the layout of the trained size."""

from __future__ import annotations

from typing import Any

from .inputs import CATEGORY, LEVELS, SCALE, STRENGTH, TRAINED_SIZE, end_percent, start_percent
from .sampling import patched
from .settings import Guidance, Share, Size


class RekernelUpsampleGuidance:
    """Takes a MODEL and returns a guided copy of it; the original does not change."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Samples above the size that a model was trained at without repeated objects: in the first steps the coarse "
        "layout comes from a second pass at the trained size. Put it between the loader and the KSampler, and choose "
        "a latent larger than the trained size. A guided step takes about a quarter more time at twice the size."
    )
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The guided model; connect it to a sampler.",)
    FUNCTION = "guide"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        when = (
            "The paper and rekernel call it eta. 0.6 guides 12 of 20 steps of the normal schedule, and 10 of the "
            "Karras schedule, as with diffusers."
        )
        model = ("MODEL", {"tooltip": "The model to guide. It does not change: the node makes a copy."})
        return {
            "required": {
                "model": model,
                "scale": SCALE,
                "strength": STRENGTH,
                "end_percent": end_percent("guidance", 0.6, when),
                "levels": LEVELS,
                "start_percent": start_percent("guidance"),
                "trained_size": TRAINED_SIZE,
            }
        }

    def guide(
        self, model: Any, scale: float, strength: float, end_percent: float, levels: int, start_percent: float,
        trained_size: int,
    ) -> tuple[Any]:  # fmt: skip
        """Return a guided clone of `model`."""
        when = Share(start_percent, end_percent)
        return (patched(model, guidance=Guidance(Size(scale, trained_size), strength, when, levels or None)),)
