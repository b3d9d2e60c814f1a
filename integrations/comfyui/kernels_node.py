"""The node *Rescaled Kernels*: a MODEL whose inner kernels grow with the picture while it samples."""

from __future__ import annotations

from typing import Any

from .inputs import CATEGORY, SCALE, TRAINED_SIZE, end_percent, start_percent
from .sampling import patched
from .settings import Kernels, Share, Size
from .spread_kernels import METHODS


class RekernelSupersampledKernels:
    """Takes a MODEL and returns a copy of it that runs with rescaled kernels; the weights do not change."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Runs the convolutions below the finest level of a Stable Diffusion UNet (1.x, 2.x, XL) with kernels rescaled "
        "to the size of the picture. The weights do not change. Use it with Upsample Guidance, in either order; "
        "guidance alone is the better start. The size must be a whole multiple of the trained size."
    )
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with rescaled kernels; connect it to a sampler, or to Upsample Guidance.",)
    FUNCTION = "rescale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        when = "rekernel with diffusers calls it until."
        method = (
            "optimal: smoothed between the spread taps, so that fewer patterns repeat. dilate: taps spread with zeros "
            "between them, as in ScaleCrafter."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "A Stable Diffusion UNet. It does not change: the node makes a copy."}),
                "scale": SCALE,
                "method": (list(METHODS), {"default": METHODS[0], "tooltip": method}),
                "end_percent": end_percent("rescaling", 0.5, when),
                "start_percent": start_percent("rescaling"),
                "trained_size": TRAINED_SIZE,
            }
        }

    def rescale(
        self, model: Any, scale: float, method: str, end_percent: float, start_percent: float, trained_size: int
    ) -> tuple[Any]:
        """Return a clone of `model` with rescaled kernels."""
        return (patched(model, kernels=Kernels(Size(scale, trained_size), method, Share(start_percent, end_percent))),)
