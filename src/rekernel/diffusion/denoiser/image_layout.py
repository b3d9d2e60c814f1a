"""Convert between the shape of a network's image argument and (B, C, *grid): channels or frames first, or tokens.

Scope: shapes of diffusers' networks. Not here: the other arguments of a call (see `call`). All other modules work with
(B, C, *grid).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import RekernelError


class ImageLayout(Protocol):
    """How an argument or output of a network holds an image: the conversion to a grid and back."""

    @property
    def packed(self) -> int:
        """Number of channels in the network's argument for one channel of the grid."""

    def grid(self, tensor: Tensor) -> Tensor:
        """Convert an argument or output of the network to (B, C, *grid)."""

    def tensor(self, grid: Tensor) -> Tensor:
        """Convert (B, C, *grid) to the shape of the network's argument."""

    def reduced(self, low: Sequence[int]) -> ImageLayout:
        """The layout of an image of `low` pixels per axis."""

    def arguments(self) -> dict[str, Any]:
        """Other arguments of the network that depend on the layout, by name."""


@dataclass(frozen=True)
class ChannelsFirst:
    """(B, C, *grid): the grid itself."""

    packed: int = 1

    def grid(self, tensor: Tensor) -> Tensor:
        return tensor

    def tensor(self, grid: Tensor) -> Tensor:
        return grid

    def reduced(self, low: Sequence[int]) -> ChannelsFirst:
        return self

    def arguments(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class FramesFirst:
    """(B, frames, C, H, W): Stable Video Diffusion."""

    packed: int = 1

    def grid(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(2, 1)

    def tensor(self, grid: Tensor) -> Tensor:
        return grid.movedim(1, 2)

    def reduced(self, low: Sequence[int]) -> FramesFirst:
        return self

    def arguments(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class PackedTokens:
    """(B, tokens, 4 C), one token for each 2 x 2 pixels, row by row: Flux.

    rows, columns : number of rows and columns of tokens
    ids : positions of the tokens, (tokens, 3), or (1, tokens, 3) in older pipelines
    packed : number of channels of a token for one channel of the grid
    """

    rows: int
    columns: int
    ids: Tensor
    packed: int = 4

    def grid(self, tensor: Tensor) -> Tensor:
        batch, _, channels = tensor.shape
        blocks = tensor.reshape(batch, self.rows, self.columns, channels // 4, 2, 2)
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, 2 * self.rows, 2 * self.columns)

    def tensor(self, grid: Tensor) -> Tensor:
        batch, channels, height, width = grid.shape
        blocks = grid.reshape(batch, channels, height // 2, 2, width // 2, 2)
        return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)

    def reduced(self, low: Sequence[int]) -> PackedTokens:
        """The layout of a picture of `low` pixels; its positions count from 0 by 1, as for any picture of that size."""
        rows, columns = (n // 2 for n in low)
        ids = _ids(rows, columns, self.ids)
        return PackedTokens(rows, columns, ids)

    def arguments(self) -> dict[str, Any]:
        return {"img_ids": self.ids}


def packed_tokens(tokens: Tensor, ids: Any) -> PackedTokens:
    """The layout of Flux's tokens, read from their positions.

    Raises
    ------
    RekernelError
        Where the positions are not those of one picture, row by row; for example with a second picture as context.

    Examples
    --------
    >>> ids = torch.tensor([[0.0, y, x] for y in range(2) for x in range(3)])
    >>> layout = packed_tokens(torch.zeros(1, 6, 64), ids)
    >>> layout.grid(torch.zeros(1, 6, 64)).shape, layout.reduced((2, 4)).ids.tolist()
    (torch.Size([1, 16, 4, 6]), [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    """
    if isinstance(ids, Tensor) and ids.shape[-1] == 3 and ids.shape[-2] == tokens.shape[1]:
        rows, columns = (int(n) + 1 for n in ids.reshape(-1, 3)[:, 1:].amax(dim=0))
        if rows * columns == tokens.shape[1] and torch.equal(ids, _ids(rows, columns, ids)):
            return PackedTokens(rows, columns, ids)
    raise RekernelError(
        f"img_ids are not the positions of one picture's {tokens.shape[1]} tokens, row by row; upsample guidance "
        f"reduces one picture (no second one as context)"
    )


def _ids(rows: int, columns: int, like: Tensor) -> Tensor:
    """Positions with the dtype and number of axes of `like`; the first column, the picture's number, is kept."""
    which = like.reshape(-1, 3)[0, 0].expand(rows * columns)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    made = torch.stack([which, y.flatten().to(like), x.flatten().to(like)], dim=-1)
    return made.expand(*like.shape[:-2], *made.shape)
