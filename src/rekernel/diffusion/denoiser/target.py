"""Read a diffusers denoiser and its pipeline: trained size, scheduler, noise schedule, channels that carry noise.

Scope: attributes of pipelines and configs. Not here: guidance (see `guidance/hook`) and kernels (see `kernels/hook`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ...errors import RekernelError
from ...plan.config_file import KEY
from ...plan.plan import Plan
from ...torch.editing.apply import PLAN
from ..cascade.sizes import geometry_of, text_of
from ..formulas.schedules import NoiseSchedule
from ..formulas.sizes import Scale
from ..picture_decoder import samples_latents
from .hooks import compiled_later, refuse_caches
from .names import IMAGE_AND_TIME, SECOND, SIZE_OF_PIPELINE
from .scheduler_config import schedule_of

LATENT = 1.0, 0.6, "nearest"  # arXiv 2404.01709
PIXELS = 1.5, 1.0, "cubic"  # benchmarks/accuracy/diffusion.py
ALONE = 1.0, 1.0, "nearest"  # a denoiser without its pipeline that may be of either kind
_LEARNED = ("learned", "learned_range")
_OF_PIXELS = (1, 3, 6)  # output channels of networks of pixels: grey, colours, colours and their variances


class Target:
    """A denoiser and, where it was given, its pipeline.

    Parameters
    ----------
    target : a diffusers pipeline, or a denoiser
    scheduler : a diffusers scheduler, for a denoiser without its pipeline
    """

    def __init__(self, target: Any, scheduler: Any = None) -> None:
        self.pipe = None if isinstance(target, nn.Module) else target
        self._scheduler = scheduler
        denoiser = target if self.pipe is None else self._current()
        if not isinstance(denoiser, nn.Module):
            raise RekernelError(
                f"{type(target).__name__} is neither a diffusers pipeline with a unet or transformer nor a torch module"
            )
        second = next((n for n in SECOND if isinstance(getattr(self.pipe, n, None), nn.Module)), None)
        if second is not None:
            raise RekernelError(
                f"{type(target).__name__} has two denoisers, the second one as {second}; attach to each of them "
                f"separately, with scheduler=pipe.scheduler"
            )
        self.denoiser: nn.Module = denoiser
        self._refuse_others()
        plan = getattr(self.network, PLAN, None)
        if isinstance(plan, Plan) and plan.changed:
            raise RekernelError(
                f"the weights of this {type(self.network).__name__} are rescaled already, and its pass at the trained "
                f"size would need the original weights; attach to the original network instead"
            )

    def _current(self) -> Any:
        unet = getattr(self.pipe, "unet", None)
        return getattr(self.pipe, "transformer", None) if unet is None else unet

    def _refuse_others(self) -> None:
        """Raise for a module that is not a denoiser: a VAE, a text encoder, a layer."""
        parameters = inspect.signature(type(self.network).forward).parameters
        if any(image in parameters and time in parameters for image, time in IMAGE_AND_TIME):
            return
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
        raise RekernelError(
            f"{type(self.network).__name__} is not a denoiser: its forward takes no noisy image with a timestep. Pass "
            f"the pipeline, or its unet or transformer"
        )

    def check(self) -> None:
        """Raise if the pipeline was changed since attaching, so that the hook no longer applies."""
        now = None if self.pipe is None else self._current()
        if now is not self.denoiser and getattr(now, "_orig_mod", None) is self.denoiser:
            raise compiled_later(self.denoiser)
        if getattr(self.denoiser, "is_cache_enabled", False):
            refuse_caches(self.denoiser)

    @property
    def network(self) -> nn.Module:
        """The denoiser without the wrapper of `torch.compile`."""
        network: nn.Module = getattr(self.denoiser, "_orig_mod", self.denoiser)
        return network

    @property
    def scheduler(self) -> Any:
        """The current scheduler: a pipeline's scheduler may be exchanged at any time."""
        return self._scheduler if self.pipe is None else self.pipe.scheduler

    @property
    def latent(self) -> bool:
        """Whether a VAE makes the picture; without a pipeline, whether the network cannot be one of pixels."""
        if self.pipe is None:
            channels = getattr(getattr(self.network, "config", None), "out_channels", None)
            return self.experimental or (isinstance(channels, int) and channels not in _OF_PIXELS)
        return samples_latents(self.pipe)

    @property
    def defaults(self) -> tuple[float, float, str]:
        """Default theta, eta and U: published for latents, measured for pixels, neutral where neither is sure."""
        if self.pipe is None and not self.latent:
            return ALONE
        return LATENT if self.latent else PIXELS

    @property
    def trained(self) -> tuple[int, ...] | None:
        """Pixels of the trained grid: (height, width); for networks on tokens, of the grid before it is packed."""
        config = getattr(self.denoiser, "config", {})
        # The config of a pipeline loaded at a new size has that size; the trained size is in rekernel's entry.
        recorded = config.get(KEY, {}) if isinstance(config, Mapping) else {}
        size = recorded.get("sample_size", getattr(config, "sample_size", None))
        height, width = getattr(config, "sample_height", None), getattr(config, "sample_width", None)
        if size is None and isinstance(height, int) and isinstance(width, int):  # CogVideoX
            return (height, width)
        return _sides(size)

    @property
    def usual(self) -> tuple[int, ...] | None:
        """What scale='auto' compares with: the trained size, else the size that the pipeline samples by default."""
        if self.trained is not None:
            return self.trained
        known = type(self.network).__name__ in SIZE_OF_PIPELINE  # other pipelines have it in other units
        default = getattr(self.pipe, "default_sample_size", None) if known else None
        own = None if self.latent else getattr(getattr(self.pipe, "config", None), "sample_size", None)
        return _sides(own if default is None else default)

    @property
    def compared(self) -> tuple[int, ...] | None:
        """What a scale that is a number is checked with: the trained size, where it is certain; else None.

        A pipeline whose call takes no size samples at the size in the config of its network, whatever the trained one.
        """
        if self.pipe is None:
            return None
        recorded = KEY in getattr(self.denoiser, "config", {})
        return self.trained if recorded or self.takes_size else None

    @property
    def takes_size(self) -> bool:
        """Whether each call of the pipeline says its size, as height and width or by a picture to start from."""
        taken = () if self.pipe is None else inspect.signature(type(self.pipe).__call__).parameters
        return "height" in taken or "image" in taken

    def pixels(self, grid: Sequence[int]) -> str:
        """A grid of the network in pixels of the picture, as people write a size: width first."""
        cell = geometry_of(self.pipe, self.network, None).cell
        size = text_of((grid[-2] * cell, grid[-1] * cell))
        return f"{size} latents" if self.pipe is None and self.latent else f"{size} pixels"

    def check_scale(self, scale: Scale) -> None:
        """Raise for 'auto' where the trained size is not known."""
        if scale == "auto" and self.usual is None:
            raise RekernelError(f"{self}: its config has no sample_size for scale='auto'; pass a number")

    @property
    def noisy(self) -> int | None:
        """Number of channels that carry noise, where the network also predicts variances; else None."""
        config = getattr(self.scheduler, "config", None)
        out = getattr(getattr(self.denoiser, "config", None), "out_channels", None)
        learned = getattr(config, "variance_type", None) in _LEARNED
        return out // 2 if learned and isinstance(out, int) and out % 2 == 0 else None

    def schedule(self, given: NoiseSchedule | None, kind: str | None) -> tuple[NoiseSchedule, str]:
        """The schedule and the kind of prediction: those given, and the scheduler's for those that are None."""
        if given is not None and kind is not None:
            return given, kind
        if self.scheduler is None:
            raise RekernelError("a denoiser without its pipeline needs scheduler=, or schedule= and prediction=")
        schedule, prediction = schedule_of(self.scheduler, self.network)
        return given or schedule, kind or prediction

    @property
    def experimental(self) -> bool:
        """Whether the network is a diffusers transformer: of these, one small trained one was measured."""
        return "Transformer" in type(self.network).__name__

    def __str__(self) -> str:
        inside = "" if self.pipe is None else f" of {type(self.pipe).__name__}"
        return f"{type(self.network).__name__}{inside}"


def _sides(size: Any) -> tuple[int, ...] | None:
    if isinstance(size, int):
        return (size, size)
    return tuple(size) if isinstance(size, list | tuple) and size else None
