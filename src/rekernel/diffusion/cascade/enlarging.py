"""Enlarge a finished sample for the next stage: in latent space, in pixels, or with the user's own enlarger.

Scope: sizes and value ranges of images. Not here: reading a picture (see `start_picture`), the VAE (see `autoencoder`),
noise (see `late_scheduler`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import RekernelError
from .autoencoder import Autoencoder
from .settings import LATENT, Enlarge
from .sizes import Size, text_of

_SAME_SHAPE = 1.02  # ratio of two aspect ratios


class Enlarger:
    """Enlarge images to the size of the next stage.

    Parameters
    ----------
    how : 'latent', 'pixels', a callable, or None
    vae : Autoencoder, or None for a pipeline of pixels and for one of latents that is enlarged in latent space
    cell : pixels of the picture for one pixel of the latents
    frames_first : whether a video's axes are (B, frames, C, h, w)
    """

    def __init__(self, how: Enlarge, vae: Autoencoder | None, cell: int, *, frames_first: bool = False) -> None:
        self.how, self.vae, self.cell, self.frames_first = how, vae, cell, frames_first

    def enlarged(self, grid: Tensor, size: Size) -> Tensor:
        """(B, C, ..., h, w) latents, or pixels from -1 to 1, of the next size."""
        if self.how == LATENT or (self.vae is None and self.how is None):
            return resized(grid, (size[0] // self.cell, size[1] // self.cell))
        if self.vae is None:
            return (self._pixels(grid.float() / 2 + 0.5, size) * 2 - 1).to(grid.dtype)
        latents = grid.movedim(2, 1) if self.frames_first else grid
        pixels = self._pixels((self.vae.pixels(latents) / 2 + 0.5).clamp(0, 1), size)
        made = self.vae.latents(pixels * 2 - 1).to(grid.dtype)
        return made.movedim(1, 2) if self.frames_first else made

    def of_picture(self, picture: Tensor, size: Size, dtype: torch.dtype) -> Tensor:
        """Latents, or pixels from -1 to 1, of a (B, C, H, W) picture in [0, 1], enlarged to `size`."""
        height, width = picture.shape[-2:]
        if not 1 / _SAME_SHAPE < (height / width) / (size[0] / size[1]) < _SAME_SHAPE:
            raise RekernelError(
                f"the given picture of {text_of((height, width))} pixels has another shape than {text_of(size)}; crop "
                f"it, or make a cascade with sizes= of its shape"
            )
        pixels = self._pixels(picture.float(), size) * 2 - 1
        return (pixels if self.vae is None else self.vae.latents(pixels)).to(dtype)

    def _pixels(self, pixels: Tensor, size: Size) -> Tensor:
        """Pixels of the next size; a callable sees each frame of a video as a picture of its own."""
        if not callable(self.how):
            return resized(pixels, size)
        frames = pixels.movedim(2, 1).flatten(0, 1) if pixels.ndim == 5 else pixels
        made = resized(_called(self.how, frames), size).clamp(0, 1)
        return made.reshape(len(pixels), -1, *made.shape[1:]).movedim(1, 2) if pixels.ndim == 5 else made


def _called(enlarge: Callable[[Any], Any], pixels: Tensor) -> Tensor:
    made = enlarge(pixels)
    if not isinstance(made, Tensor) or made.ndim != 4 or made.shape[:2] != pixels.shape[:2]:
        said = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise RekernelError(
            f"enlarge: the callable got pixels of shape {tuple(pixels.shape)}, each in [0, 1], and returned {said}; it "
            f"must return a tensor of larger pictures, (B, C, H, W)"
        )
    return made.to(pixels)


def resized(image: Tensor, size: Size) -> Tensor:
    """The image at another height and width, bicubic, without aliasing where it becomes smaller; its dtype stays."""
    if tuple(image.shape[-2:]) == size:
        return image
    flat = image.float().reshape(-1, 1, *image.shape[-2:])
    made = torch.nn.functional.interpolate(flat, size=size, mode="bicubic", antialias=True)
    return made.reshape(*image.shape[:-2], *size).to(image.dtype)


__all__ = ["Enlarger", "resized"]
