"""The inputs that several nodes have, with their tooltips.

Scope: ComfyUI's declarations. Not here: what the values do (see `settings`).
"""

from __future__ import annotations

from typing import Any

CATEGORY = "model_patches/unet"
"""Where ComfyUI has its own patches of models: FreeU, HyperTile, Deep Shrink."""

Input = tuple[str, dict[str, Any]]

STRENGTH: Input = ("FLOAT", {
    "default": 1.0, "min": 0.0, "max": 4.0, "step": 0.05,
    "tooltip": "Strength of guidance: 0 off, 1 take the coarse layout fully from the trained-size pass. The paper and "
               "rekernel's documentation call it theta.",
})  # fmt: skip

SCALE: Input = ("FLOAT", {
    "default": 0.0, "min": 0.0, "max": 16.0, "step": 0.05,
    "tooltip": "Size of the picture divided by the size that the model was trained at: 2 for 1024x1024 with Stable "
               "Diffusion 1.5. 0 takes it from the latent and the kind of the model, for each side.",
})  # fmt: skip

TRAINED_SIZE: Input = ("INT", {
    "default": 0, "min": 0, "max": 4096, "step": 8,
    "tooltip": "Pixels along a side of the pictures that the model was trained on; read where scale is 0. 0 means the "
               "usual size of this kind of model: 512 for Stable Diffusion 1.x, 1024 for SDXL, SD3 and Flux.",
})  # fmt: skip

LEVELS: Input = ("INT", {
    "default": 0, "min": 0, "max": 4,
    "tooltip": "Number of nested passes at smaller sizes, each guiding the next larger one. 0 means one for each "
               "doubling of the size.",
})  # fmt: skip


def start_percent(what: str, of: str = "the model's time") -> Input:
    """Where `what` starts, as a share of `of`."""
    tooltip = f"Share of {of} after which {what} starts; 0 starts with the first step."
    return ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip})


def end_percent(what: str, default: float, more: str, of: str = "the model's time") -> Input:
    """Where `what` ends, as a share of `of`."""
    tooltip = f"Share of {of}, from noise to image, after which {what} ends; 1 is every step. {more}"
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip})
