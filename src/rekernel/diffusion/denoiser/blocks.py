"""Put the pixels of each 2 x 2 block into the channels of one, and back: the packed latents of Flux and its kin."""

from __future__ import annotations

from torch import Tensor


def stacked_blocks(grid: Tensor) -> Tensor:
    """(B, C, h, w) with each 2 x 2 pixels as channels: (B, 4 C, h / 2, w / 2).

    Examples
    --------
    >>> import torch
    >>> stacked_blocks(torch.arange(8.0).reshape(1, 1, 2, 4))[0, :, 0].tolist()
    [[0.0, 2.0], [1.0, 3.0], [4.0, 6.0], [5.0, 7.0]]
    """
    batch, channels, height, width = grid.shape
    blocks = grid.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)


def unstacked_blocks(blocks: Tensor) -> Tensor:
    """The inverse of `stacked_blocks`."""
    batch, channels, height, width = blocks.shape
    grid = blocks.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return grid.reshape(batch, channels // 4, 2 * height, 2 * width)


def packed_blocks(grid: Tensor) -> Tensor:
    """(B, C, h, w) as one token for each 2 x 2 pixels, row by row: (B, h w / 4, 4 C)."""
    return stacked_blocks(grid).flatten(2).transpose(1, 2)


def unpacked_blocks(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `packed_blocks`, for so many rows and columns of tokens: (B, C, 2 rows, 2 columns)."""
    return unstacked_blocks(tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns))
