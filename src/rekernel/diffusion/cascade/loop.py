"""Sample a network or a function with a scheduler alone, in a loop as pipelines of pixels have it.

Scope: the interface that the schedulers of diffusers share. Not here: pipelines (see `running`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ...errors import RekernelError
from ..denoiser.names import DENOISERS


class FunctionDenoiser(nn.Module):
    """A function `denoise(x, t, **options)` as a network, so that hooks can be put on it."""

    def __init__(self, denoise: Callable[..., Any]) -> None:
        super().__init__()
        self.denoise = denoise

    def forward(self, sample: Tensor, timestep: Any, **options: Any) -> Any:
        return self.denoise(sample, timestep, **options)


class Denoising:
    """A network and its scheduler, called like a pipeline of pixels.

    unet : the network, called as unet(x, t, **options); its first result is the prediction
    scheduler : a diffusers scheduler
    """

    def __init__(self, unet: nn.Module, scheduler: Any) -> None:
        self.unet, self.scheduler = unet, scheduler

    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 20,
        generator: Any = None,
        latents: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        channels: int | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        **options: Any,
    ) -> tuple[Tensor]:
        """Sample and return (pictures,), (B, C, H, W), in the values that the network was trained on.

        Parameters
        ----------
        channels : int, optional
            Channels of the noise; by default `in_channels` of the network's config.
        **options
            Passed to the network.
        """
        config, weight = getattr(self.unet, "config", None), next(self.unet.parameters(), torch.empty(0))
        if latents is None:
            channels = channels or getattr(config, "in_channels", None)
            if channels is None or height is None or width is None:
                raise RekernelError("the network's config has no in_channels; pass channels=, or latents= with noise")
            shape = (batch_size, channels, height, width)
            latents = randn_tensor(shape, generator=generator, device=weight.device, dtype=weight.dtype)
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps, device=latents.device)
        x = latents * getattr(scheduler, "init_noise_sigma", 1.0)
        drawn = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        for i, t in enumerate(scheduler.timesteps):
            seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            predicted = self.unet(seen, t, **options)
            predicted = predicted if isinstance(predicted, Tensor) else predicted[0]
            x = scheduler.step(predicted, t, x, return_dict=False, **drawn)[0]
            if callback_on_step_end is not None:
                x = (callback_on_step_end(self, i, t, {"latents": x}) or {}).get("latents", x)
        return (x,)


def as_pipeline(given: Any, scheduler: Any) -> Any:
    """The pipeline itself, or a network or function with its scheduler as a pipeline.

    Raises
    ------
    RekernelError
        For a network without a scheduler, for a pipeline whose denoiser has another name, for one that calls another
        pipeline, and for an object that is none of these.
    """
    # By identity: the wrapper of `torch.compile` has no truth value.
    denoiser = next((part for name in DENOISERS if (part := getattr(given, name, None)) is not None), None)
    if denoiser is not None and not isinstance(given, nn.Module) and callable(given):
        if scheduler is not None:
            raise RekernelError(f"scheduler=: {type(given).__name__} has its own scheduler; set pipe.scheduler instead")
        if hasattr(given, "decoder_pipe"):
            raise RekernelError(f"{type(given).__name__} calls other pipelines; make the cascade of pipe.decoder_pipe")
        return given
    if isinstance(given, DiffusionPipeline):
        raise RekernelError(f"{type(given).__name__} has no unet or transformer, so a cascade cannot take it")
    network = given if denoiser is None or isinstance(given, nn.Module) else denoiser
    scheduler = scheduler or getattr(given, "scheduler", None)
    if not isinstance(network, nn.Module) and not callable(network):
        raise RekernelError(
            f"{type(given).__name__} is neither a pipeline, nor a network, nor a function denoise(x, t)"
        )
    if scheduler is None:
        raise RekernelError(f"{type(given).__name__}: a network without its pipeline needs scheduler=")
    return Denoising(network if isinstance(network, nn.Module) else FunctionDenoiser(network), scheduler)
