"""Enlarge a finished sample for the next stage: in latent space, in pixels, or with the user's own enlarger.

Scope: sizes and value ranges of images. Not here: the VAE (see `autoencoder`), noise (see `late_scheduler`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
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
    vae : an autoencoder, or None for a pipeline of pixels
    cell : pixels of the picture for one pixel of the latents
    frames_first : whether a video's axes are (B, frames, C, h, w)
    """

    def __init__(self, how: Enlarge, vae: Any, cell: int, *, frames_first: bool = False) -> None:
        self.vae = None if vae is None else Autoencoder(vae)
        self.how, self.cell, self.frames_first = how, cell, frames_first

    def enlarged(self, grid: Tensor, size: Size) -> Tensor:
        """(B, C, ..., h, w) latents, or pixels from -1 to 1, of the next size."""
        if self.vae is None:
            made = grid if self.how in (None, LATENT) else grid.float() / 2 + 0.5
            pixels = self._pixels(made, size)
            return (pixels if self.how in (None, LATENT) else pixels * 2 - 1).to(grid.dtype)
        if self.how == LATENT:
            return resized(grid, (size[0] // self.cell, size[1] // self.cell))
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


def as_picture(given: Any) -> Tensor:
    """A picture, or several of one size, as a (B, C, H, W) tensor in [0, 1].

    Parameters
    ----------
    given : PIL image, (H, W, C) or (B, H, W, C) array in [0, 1] or uint8, (C, H, W) or (B, C, H, W) tensor in [0, 1],
        or a list of these
    """
    if isinstance(given, list | tuple):
        if not given:
            raise RekernelError("image: the list of pictures is empty; give a picture")
        parts = [as_picture(part) for part in given]
        if len({part.shape[1:] for part in parts}) != 1:
            raise RekernelError("the given pictures differ in size or channels; give pictures of one size")
        return torch.cat(parts)
    if isinstance(given, Tensor):
        tensor = given
    elif isinstance(given, np.ndarray) or hasattr(given, "convert"):
        array = np.asarray(
            given.convert("L" if given.mode in ("1", "L") else "RGB") if hasattr(given, "convert") else given
        )
        array = array[..., None] if array.ndim == 2 else array
        tensor = torch.from_numpy(np.moveaxis(array, -1, -3).copy())
    else:
        raise RekernelError(f"image: a {type(given).__name__} is not a picture; give a PIL image, an array or a tensor")
    tensor = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor
    tensor = tensor[None] if tensor.ndim == 3 else tensor
    if tensor.ndim != 4 or not tensor.is_floating_point():
        raise RekernelError(f"image: of shape {tuple(tensor.shape)} and {tensor.dtype} is not a picture in [0, 1]")
    return tensor


__all__ = ["Enlarger", "as_picture", "resized"]
