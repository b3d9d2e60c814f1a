"""Pipelines with random weights, and what of them a cascade could leave changed."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from ..conftest import LATENTS, SD, VAE, quiet, text_model  # noqa: E402


def state(pipe: Any) -> dict[str, Any]:
    """The identity of each attribute of a pipeline and of its parts, and the values in its scheduler and config."""
    found: dict[str, Any] = {}
    for name in ("unet", "transformer", "vae", "scheduler"):
        part = getattr(pipe, name, None)
        if part is not None:
            found |= {f"{name}.{key}": id(value) for key, value in vars(part).items() if not key.startswith(CACHED)}
    inside = {key: str(value) for key, value in vars(pipe.scheduler).items()}
    own = {key: id(value) for key, value in vars(pipe).items() if key not in CALLED}
    network = getattr(pipe, "unet", None) or pipe.transformer
    hooks = {
        name: len(module._forward_pre_hooks) + len(module._forward_hooks) for name, module in network.named_modules()
    }
    return {**found, **own, "scheduler": inside, "hooks": hooks, "config": dict(network.config)}


# What a call of a pipeline leaves on it by itself.
CALLED = {
    "_guidance_scale", "_guidance_scale_2", "_guidance_rescale", "_clip_skip", "_cross_attention_kwargs", "_interrupt",
    "_num_timesteps", "_denoising_end", "_joint_attention_kwargs", "_skip_layer_guidance_scale", "_current_timestep",
    "_attention_kwargs", "_cfg_normalization", "_cfg_truncation",
}  # fmt: skip
CACHED = ("_conv_", "_enc_", "_feat_map")  # of a VAE of videos


@pytest.fixture
def parts(nets, words):
    """The parts of a Stable Diffusion pipeline but its network."""
    return {
        "vae": nets.made(diffusers.AutoencoderKL, **VAE), "text_encoder": text_model("CLIPTextModel"),
        "tokenizer": words, "scheduler": diffusers.DDIMScheduler(**SD, clip_sample=False), "safety_checker": None,
        "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip


@pytest.fixture
def controlled(nets, parts):
    """Stable Diffusion with a ControlNet that does something."""
    unet = nets.conditioned(**LATENTS)
    side = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    for parameter in side.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    return quiet(diffusers.StableDiffusionControlNetPipeline(unet=unet, controlnet=side, **parts))


@pytest.fixture
def inpainting(nets, parts):
    """Make an inpainting pipeline of 4 or 9 channels."""

    def make(channels):
        unet = nets.conditioned(**{**LATENTS, "in_channels": channels})
        return quiet(diffusers.StableDiffusionInpaintPipeline(unet=unet, **parts))

    return make
