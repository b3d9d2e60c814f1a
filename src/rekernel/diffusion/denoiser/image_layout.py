"""How a network's argument holds the picture: channels first, frames first, or packed into tokens.

Knows shapes of diffusers' networks; no time, guidance or kernel. Everything else sees (B, C, *grid).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import RekernelError


class Layout(Protocol):
    """The two directions, and what becomes of the layout when the grid is reduced."""

    @property
    def packed(self) -> int:
        """Channels of the network's argument that make one of the grid's."""

    def grid(self, tensor: Tensor) -> Tensor:
        """(B, C, *grid) of an argument or an output."""

    def tensor(self, grid: Tensor) -> Tensor:
        """The reverse."""

    def reduced(self, low: Sequence[int]) -> Layout:
        """For `low` pixels."""

    def arguments(self) -> dict[str, Any]:
        """Arguments that follow from the layout, by name."""


@dataclass(frozen=True)
class ChannelsFirst:
    """(B, C, *grid), as it is."""

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
    """(B, tokens, 4 C), a token for each 2 x 2 pixels, row by row: Flux.

    rows, columns : of tokens
    ids : the tokens' positions, (tokens, 3) or, as older pipelines have it, (1, tokens, 3)
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
        """The positions are those of a picture of that size, not those of the larger one thinned out."""
        rows, columns = (n // 2 for n in low)
        ids = _ids(rows, columns, self.ids)
        return PackedTokens(rows, columns, ids)

    def arguments(self) -> dict[str, Any]:
        return {"img_ids": self.ids}


def packed_tokens(tokens: Tensor, ids: Any) -> PackedTokens:
    """The layout of Flux' tokens, told from their positions.

    Raises
    ------
    RekernelError
        Where the positions are not those of one picture, row by row (a second picture as context, say).

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
    """Positions of the type and number of axes of `like`, whose first column (which picture) is kept."""
    which = like.reshape(-1, 3)[0, 0].expand(rows * columns)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    made = torch.stack([which, y.flatten().to(like), x.flatten().to(like)], dim=-1)
    return made.expand(*like.shape[:-2], *made.shape)
