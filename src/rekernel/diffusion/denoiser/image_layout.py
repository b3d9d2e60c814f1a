"""Convert between the shape of a network's image argument and (B, C, *grid): channels or frames first, or a list.

Scope: shapes of diffusers' networks. Not here: tokens (see `token_layout`), the other arguments of a call (see `call`).
All other modules work with (B, C, *grid).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class ImageLayout(Protocol):
    """How an argument or output of a network holds an image: the conversion to a grid and back."""

    @property
    def packed(self) -> int:
        """Number of channels in the network's argument for one channel of the grid."""

    def grid(self, tensor: Any) -> Tensor:
        """Convert an argument or output of the network to (B, C, *grid)."""

    def tensor(self, grid: Tensor) -> Any:
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
class ListOfImages:
    """One (C, frames, H, W) tensor for each sample: Z-Image."""

    packed: int = 1

    def grid(self, tensor: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensor))

    def tensor(self, grid: Tensor) -> list[Tensor]:
        return list(grid.unbind())

    def reduced(self, low: Sequence[int]) -> ListOfImages:
        return self

    def arguments(self) -> dict[str, Any]:
        return {}
