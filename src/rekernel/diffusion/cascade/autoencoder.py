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
        with self._ready() as dtype:
            raw = latents.float() / scale.to(latents.device) + shift.to(latents.device)
            flat = self._video and raw.ndim == 4
            decoded = self.vae.decode((raw[:, :, None] if flat else raw).to(dtype), return_dict=False)[0]
            pixels: Tensor = decoded[:, :, 0] if flat else decoded
            return pixels.float()

    def latents(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, [frames,] H, W) pixels to (B, C, [frames,] h, w); the mean, not a draw, of a distribution."""
        with self._ready() as dtype:
            flat = self._video and pixels.ndim == 4
            encoded = self.vae.encode((pixels[:, :, None] if flat else pixels).to(dtype))
            raw = _values(encoded, type(self.vae).__name__).float()
            raw = raw[:, :, 0] if flat else raw
        scale, shift = self._affine(raw.ndim)
        return (raw - shift.to(raw.device)) * scale.to(raw.device)

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
