"""Turn latents into pixels and back with the VAE of a pipeline, as the pipelines of diffusers do.

Scope: scales, shifts and output names of the autoencoders of diffusers. Not here: enlarging (see `enlarging`). Tiling
and slicing are switched on at the VAE itself, so they act here too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RekernelError
from ..denoiser.blocks import stacked_blocks, unstacked_blocks


class Autoencoder:
    """The VAE of a pipeline: latents in the scale of the denoiser, pixels from -1 to 1.

    Parameters
    ----------
    vae : an autoencoder of diffusers
    plain : whether its latents have no scale and are decoded without a code book, as those of Kandinsky
    """

    def __init__(self, vae: Any, *, plain: bool = False) -> None:
        self.plain = plain
        self.vae = vae = getattr(vae, "_orig_mod", vae)  # the wrapper of `torch.compile` hides its buffers
        self._video = any(isinstance(module, nn.Conv3d) for module in vae.modules())
        # Flux 2 normalises its latents by statistics of 2 x 2 blocks.
        self._stacked = isinstance(getattr(vae, "bn", None), nn.modules.batchnorm._BatchNorm)

    @property
    def channels(self) -> int:
        """Channels of the pictures."""
        config = self.vae.config
        found = getattr(config, "in_channels", getattr(config, "input_channels", 3))
        return found if isinstance(found, int) else 3

    def pixels(self, latents: Tensor) -> Tensor:
        """Decode (B, C, [frames,] h, w) latents to (B, 3, [frames,] H, W)."""
        blocks = stacked_blocks(latents.float()) if self._stacked else latents.float()
        scale, shift = self._affine(blocks)
        raw = blocks / scale + shift
        raw = unstacked_blocks(raw) if self._stacked else raw
        with self._ready() as dtype:
            fitting = self._fitting(raw).to(dtype)
            options = {"force_not_quantize": True} if self.plain else self._time(fitting)
            decoded = self.vae.decode(fitting, return_dict=False, **options)[0]
        return self._as_before(decoded.float(), raw)

    def latents(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, [frames,] H, W) pixels to (B, C, [frames,] h, w); the mean, not a draw, of a distribution."""
        with self._ready() as dtype:
            encoded = self.vae.encode(self._fitting(pixels).to(dtype))
            raw = self._as_before(_values(encoded, type(self.vae).__name__).float(), pixels)
        blocks = stacked_blocks(raw) if self._stacked else raw
        scale, shift = self._affine(blocks)
        made = (blocks - shift) * scale
        return unstacked_blocks(made) if self._stacked else made

    def _time(self, latents: Tensor) -> dict[str, Tensor]:
        """The time of a decoder that removes the last noise itself (LTX-Video): none is left."""
        timed = getattr(self.vae.config, "timestep_conditioning", False)
        return {"temb": latents.new_zeros(len(latents))} if timed else {}

    def _fitting(self, images: Tensor) -> Tensor:
        """A picture as a video of one frame for a VAE of videos, a video as pictures for a VAE of pictures."""
        if self._video and images.ndim == 4:
            return images[:, :, None]
        if self._video or images.ndim == 4:
            return images
        if "num_frames" in inspect.signature(self.vae.decode).parameters:
            raise RekernelError(f"{type(self.vae).__name__}: decodes frames together; pass enlarge='latent'")
        return images.movedim(2, 1).flatten(0, 1)

    def _as_before(self, images: Tensor, given: Tensor) -> Tensor:
        """The pictures or videos in the form in which `given` came."""
        if images.ndim == given.ndim:
            return images
        return images[:, :, 0] if self._video else images.reshape(len(given), -1, *images.shape[1:]).movedim(1, 2)

    def _affine(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, shift) with latents = (raw - shift) * scale, per channel where the VAE has them per channel."""
        if self.plain:
            return latents.new_ones(()), latents.new_zeros(())
        config = self.vae.config
        scale, shift = (getattr(config, name, None) for name in ("scaling_factor", "shift_factor"))
        mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:  # LTX-Video has them as buffers
            buffers = dict(self.vae.named_buffers(recurse=False))
            mean, std = (buffers.get(name) for name in ("latents_mean", "latents_std"))
        if self._stacked:
            mean = self.vae.bn.running_mean
            std = (self.vae.bn.running_var + getattr(config, "batch_norm_eps", 1e-5)) ** 0.5
        made = torch.as_tensor(scale or 1.0).to(latents), torch.as_tensor(shift or 0.0).to(latents)
        if mean is None or std is None:
            return made
        channel = (1, -1, *(1 for _ in latents.shape[2:]))
        mean, std = (torch.as_tensor(values).to(latents).reshape(channel) for values in (mean, std))
        return made[0] / std, mean

    @contextmanager
    def _ready(self) -> Iterator[torch.dtype]:
        """The dtype to run in: float32 for a VAE whose config says that it overflows in half precision (SDXL)."""
        own = self.vae.dtype
        wide = own == torch.float16 and getattr(self.vae.config, "force_upcast", False)
        if not wide:
            yield own
            return
        self.vae.to(torch.float32)
        try:
            yield torch.float32
        finally:
            self.vae.to(own)


def _values(encoded: Any, name: str) -> Tensor:
    if hasattr(encoded, "latent_dist"):
        mode: Tensor = encoded.latent_dist.mode()
        return mode
    for attribute in ("latents", "latent"):
        if hasattr(encoded, attribute):
            values: Tensor = getattr(encoded, attribute)
            return values
    raise RekernelError(f"{name}: its encode() gives no latents that a cascade knows; pass enlarge='latent'")
