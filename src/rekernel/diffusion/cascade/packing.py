"""Convert the image of a pipeline's sampling loop to (B, C, ..., height, width) and back: grids or packed tokens.

Scope: shapes. Not here: arguments of a network (see `denoiser/image_layout`).
"""

from __future__ import annotations

from torch import Tensor

from ...errors import RekernelError
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
        batch, _, channels = sample.shape
        blocks = sample.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)
    if sample.ndim < 4 or tuple(sample.shape[-2:]) != (height, width):
        raise RekernelError(
            f"at {text_of(size)} pixels the image has the shape {tuple(sample.shape)}, not {height} rows and {width} "
            f"columns nor as many tokens; a cascade does not know how this pipeline arranges its image"
        )
    return sample


def packed(grid: Tensor, *, tokens: bool) -> Tensor:
    """The grid in the form that the pipeline samples in: itself, or tokens of 2 x 2 pixels, row by row."""
    if not tokens:
        return grid
    batch, channels, height, width = grid.shape
    blocks = grid.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)
