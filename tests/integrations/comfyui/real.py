"""Import a checkout of ComfyUI, and make small models of it with random weights.

The environment variable REKERNEL_COMFYUI names the checkout. What ComfyUI imports beside torch (einops, torchsde,
torchvision, ...) must be importable. Nothing of ComfyUI is in this repository.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from comfyui.guidance_node import RekernelUpsampleGuidance
from comfyui.kernels_node import RekernelSupersampledKernels

VARIABLE = "REKERNEL_COMFYUI"
SIZE, TRAINED = 16, 64  # pixels of the latent; of the trained picture

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "context_dim": 16, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
    "dtype": torch.float32,
}  # fmt: skip


def checkout():
    """The folder of ComfyUI; the test is skipped where there is none or where it cannot be imported."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} does not name a checkout of ComfyUI")
    importlib.import_module("diffusers.models.unets.unet_2d_condition")  # before there is more to find
    if folder not in sys.path:
        sys.path.insert(0, str(Path(folder).resolve()))
    before, sys.argv = sys.argv, ["main.py", "--cpu"]
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.samplers")
        importlib.import_module("comfy.supported_models")
    except ModuleNotFoundError as error:
        pytest.skip(f"ComfyUI needs {error.name}, which is not installed")
    finally:
        sys.argv = before
    return Path(folder)


def patcher_of(model):
    """The real ModelPatcher around a model, on the processor."""
    from comfy.model_patcher import ModelPatcher

    device = torch.device("cpu")
    model.eval().requires_grad_(False)
    return ModelPatcher(model, load_device=device, offload_device=device)


def randomised(network, seed=0):
    """Weights that neither vanish nor explode; ComfyUI leaves them uninitialised."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        scale = 0.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    for buffer in network.buffers():  # SD3's table of positions
        buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return network


def unet_model(kind="SD15", model_type="EPS", **config):
    """A small UNet as ComfyUI's own class for that kind of model."""
    import comfy.model_base
    import comfy.supported_models

    made = getattr(comfy.supported_models, kind)({**UNET, **config})
    made.unet_config |= {"num_heads": 4, "num_head_channels": -1}  # the kind's own would leave no head at this width
    base = comfy.model_base.SDXL if kind == "SDXL" else comfy.model_base.BaseModel
    model = base(made, model_type=comfy.model_base.ModelType[model_type], device=torch.device("cpu"))
    randomised(model.diffusion_model)
    return model


def condition(seed, tokens=5, width=16, **more):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, width, generator=generator), more]]


def sd3_model():
    import comfy.model_base
    import comfy.supported_models

    text = {"target": "torch.nn.Linear", "params": {"in_features": 16, "out_features": 128}}
    config = {
        "in_channels": 16, "patch_size": 2, "input_size": None, "pos_embed_max_size": 64, "num_patches": 4096,
        "pos_embed_scaling_factor": None, "depth": 2, "adm_in_channels": 8, "context_embedder_config": text,
        "dtype": torch.float32,
    }  # fmt: skip
    model = comfy.model_base.SD3(comfy.supported_models.SD3(config), device=torch.device("cpu"))
    randomised(model.diffusion_model)
    return model


def flux_model():
    import comfy.model_base
    import comfy.supported_models

    config = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 8, "context_in_dim": 16,
        "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
        "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
        "dtype": torch.float32,
    }  # fmt: skip
    model = comfy.model_base.Flux(comfy.supported_models.Flux(config), device=torch.device("cpu"))
    randomised(model.diffusion_model)
    return model


def guided(model, *, scale=0.0, strength=1.0, end=0.6, levels=0, start=0.0, trained=TRAINED):
    return RekernelUpsampleGuidance().guide(model, scale, strength, end, levels, start, trained)[0]


def kernels(model, *, scale=0.0, method="optimal", end=1.0, start=0.0, trained=TRAINED):
    return RekernelSupersampledKernels().rescale(model, scale, method, end, start, trained)[0]


def noise(channels=4, size=SIZE, batch=1, seed=3):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


class Passes(list):
    """(size, sigma) of every pass of a model, inside every wrapper."""

    def __init__(self, monkeypatch, model):
        super().__init__()
        kind, run = type(model), type(model)._apply_model

        def seen(itself, x, t, *args, **kwargs):
            self.append((x.shape[-1], t[0].item()))
            return run(itself, x, t, *args, **kwargs)

        monkeypatch.setattr(kind, "_apply_model", seen)

    def of(self, size):
        return [sigma for one, sigma in self if one == size]


def sample(
    model, steps=20, sampler="euler", scheduler="normal", cfg=3.0, x=None, latent=None, positive=None, pooled=None,
    **more,
):  # fmt: skip
    import comfy.sample

    x = noise() if x is None else x
    latent = torch.zeros_like(x) if latent is None else latent
    pooled = {} if pooled is None else {"pooled_output": pooled}
    said, unsaid = positive or condition(0, **pooled), condition(1, **pooled)
    return comfy.sample.sample(
        model, x, steps, cfg, sampler, scheduler, said, unsaid, latent, disable_pbar=True, seed=1, **more
    )
