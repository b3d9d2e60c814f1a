"""Turn latents into pixels and back with the VAE of a pipeline, as the pipelines of diffusers do.

Scope: scales, shifts and output names of the autoencoders of diffusers. Not here: enlarging (see `enlarging`). Tiling
and slicing are switched on at the VAE itself, so they act here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RekernelError


class Autoencoder:
    """The VAE of a pipeline: latents in the scale of the denoiser, pixels from -1 to 1.

    Parameters
    ----------
    vae : an autoencoder of diffusers
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self._video = any(isinstance(module, nn.Conv3d) for module in vae.modules())

    def pixels(self, latents: Tensor) -> Tensor:
        """Decode (B, C, [frames,] h, w) latents to (B, 3, [frames,] H, W)."""
        scale, shift = self._affine(latents.ndim)
        raw = latents.float() / scale.to(latents.device) + shift.to(latents.device)
        with self._ready() as dtype:
            decoded = self.vae.decode(self._fitting(raw).to(dtype), return_dict=False)[0]
        return self._as_before(decoded.float(), raw)

    def latents(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, [frames,] H, W) pixels to (B, C, [frames,] h, w); the mean, not a draw, of a distribution."""
        with self._ready() as dtype:
            encoded = self.vae.encode(self._fitting(pixels).to(dtype))
            raw = self._as_before(_values(encoded, type(self.vae).__name__).float(), pixels)
        scale, shift = self._affine(raw.ndim)
        return (raw - shift.to(raw.device)) * scale.to(raw.device)

    def _fitting(self, images: Tensor) -> Tensor:
        """A picture as a video of one frame for a VAE of videos, a video as pictures for a VAE of pictures."""
        if self._video and images.ndim == 4:
            return images[:, :, None]
        return images.movedim(2, 1).flatten(0, 1) if not self._video and images.ndim == 5 else images

    def _as_before(self, images: Tensor, given: Tensor) -> Tensor:
        """The pictures or videos in the form in which `given` came."""
        if images.ndim == given.ndim:
            return images
        return images[:, :, 0] if self._video else images.reshape(len(given), -1, *images.shape[1:]).movedim(1, 2)

    def _affine(self, axes: int) -> tuple[Tensor, Tensor]:
        """(scale, shift) with latents = (raw - shift) * scale, per channel where the VAE has them per channel."""
        config = self.vae.config
        scale = torch.as_tensor(getattr(config, "scaling_factor", None) or 1.0)
        shift = torch.as_tensor(getattr(config, "shift_factor", None) or 0.0)
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is not None and std is not None:
            channel = (1, -1, *(1 for _ in range(axes - 2)))
            scale = scale / torch.tensor(std).reshape(channel)
            shift = torch.tensor(mean).reshape(channel)
        return scale, shift

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
