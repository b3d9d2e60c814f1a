"""Convert the image of a pipeline's sampling loop to (B, C, ..., height, width) and back: grids or packed tokens.

Scope: shapes. Not here: arguments of a network (see `denoiser/image_layout`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import RekernelError
from ..denoiser.image_layout import PackedTokens
from .sizes import Size, text_of


def unpacked(sample: Tensor, size: Size, cell: int) -> Tensor:
    """The image as a grid; tokens of 2 x 2 pixels are taken apart.

    Parameters
    ----------
    sample : (B, C, ..., height, width) tensor, or (B, tokens, 4 C) as in Flux
    size : pixels of the picture
    cell : pixels of the picture for one pixel of the grid

    Raises
    ------
    RekernelError
        For a sample that is not of that size.
    """
    height, width = size[0] // cell, size[1] // cell
    if sample.ndim == 3 and sample.shape[1] * 4 == height * width:
        return _tokens(height, width).grid(sample)
    if sample.ndim < 4 or tuple(sample.shape[-2:]) != (height, width):
        raise RekernelError(
            f"at {text_of(size)} pixels the image has the shape {tuple(sample.shape)}, not {height} rows and {width} "
            f"columns nor as many tokens; a cascade does not know how this pipeline arranges its image"
        )
    return sample


def packed(grid: Tensor, *, tokens: bool) -> Tensor:
    """The grid in the form that the pipeline samples in."""
    return _tokens(*grid.shape[-2:]).tensor(grid) if tokens else grid


def _tokens(height: int, width: int) -> PackedTokens:
    return PackedTokens(height // 2, width // 2, torch.empty(0))
