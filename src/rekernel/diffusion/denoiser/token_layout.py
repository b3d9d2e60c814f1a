"""Convert between tokens, as some transformers get an image, and (B, C, *grid).

Scope: tokens of diffusers' networks, and the arguments that say where each token lies. Not here: images on a grid (see
`image_layout`), the other arguments of a call (see `call`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ...errors import RekernelError
from .blocks import packed_blocks, unpacked_blocks
from .image_layout import ImageLayout


@dataclass(frozen=True)
class PackedTokens(ABC):
    """(B, tokens, 4 C), one token for each 2 x 2 pixels, row by row.

    rows, columns : number of rows and columns of tokens
    where : the positions of the tokens, as the network's argument has them
    packed : number of channels of a token for one channel of the grid
    """

    rows: int
    columns: int
    where: Any
    packed: int = 4

    def grid(self, tensor: Tensor) -> Tensor:
        return unpacked_blocks(tensor, self.rows, self.columns)

    def tensor(self, grid: Tensor) -> Tensor:
        return packed_blocks(grid)

    def reduced(self, low: Sequence[int]) -> Self:
        """The layout of a picture of `low` pixels; its positions count from 0 by 1, as for any picture of that size."""
        rows, columns = (n // 2 for n in low)
        return replace(self, rows=rows, columns=columns, where=self._positions(rows, columns))

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The arguments that say where the tokens lie."""

    @abstractmethod
    def _positions(self, rows: int, columns: int) -> Any:
        """The positions of a picture of so many rows and columns of tokens."""


@dataclass(frozen=True)
class NumberedTokens(PackedTokens):
    """Tokens with a row of numbers each, (tokens, k) or (B, tokens, k), the row and the column second: Flux, Flux 2."""

    def arguments(self) -> dict[str, Any]:
        return {"img_ids": self.where}

    def _positions(self, rows: int, columns: int) -> Tensor:
        return _ids(rows, columns, self.where)


@dataclass(frozen=True)
class ShapedTokens(PackedTokens):
    """Tokens of pictures whose (frames, rows, columns) are an argument, one for each sample: Qwen-Image."""

    def arguments(self) -> dict[str, Any]:
        return {"img_shapes": self.where}

    def _positions(self, rows: int, columns: int) -> Any:
        return [[(1, rows, columns)] if isinstance(shape, list) else (1, rows, columns) for shape in self.where]


@dataclass(frozen=True)
class VideoTokens:
    """(B, tokens, C), one token for each pixel of a video, frame by frame: LTX-Video."""

    size: tuple[int, ...]
    packed: int = 1

    def grid(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(1, 2).reshape(len(tensor), -1, *self.size)

    def tensor(self, grid: Tensor) -> Tensor:
        return grid.flatten(2).movedim(2, 1)

    def reduced(self, low: Sequence[int]) -> VideoTokens:
        return VideoTokens(tuple(low))

    def arguments(self) -> dict[str, Any]:
        return dict(zip(("num_frames", "height", "width"), self.size, strict=True))


def token_layout(tokens: Tensor, arguments: Mapping[str, Any]) -> ImageLayout | None:
    """The layout of (B, tokens, C), read from the arguments that say where the tokens lie; None where none does.

    Raises
    ------
    RekernelError
        Where the positions are not those of one picture, row by row; for example with a second picture as context.

    Examples
    --------
    >>> ids = torch.tensor([[0.0, y, x] for y in range(2) for x in range(3)])
    >>> layout = token_layout(torch.zeros(1, 6, 64), {"img_ids": ids})
    >>> layout.grid(torch.zeros(1, 6, 64)).shape, layout.reduced((2, 4)).where.tolist()
    (torch.Size([1, 16, 4, 6]), [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    """
    if "img_ids" in arguments:
        return _numbered(tokens, arguments["img_ids"])
    if arguments.get("img_shapes") is not None:
        return _shaped(tokens, arguments["img_shapes"])
    size = tuple(n for name in ("num_frames", "height", "width") if isinstance(n := arguments.get(name), int))
    return VideoTokens(size) if len(size) == 3 else None


def _numbered(tokens: Tensor, ids: Any) -> NumberedTokens:
    if isinstance(ids, Tensor) and ids.shape[-1] in (3, 4) and ids.shape[-2] == tokens.shape[1]:
        first = ids.reshape(-1, *ids.shape[-2:])[0]
        rows, columns = (int(n) + 1 for n in first[:, 1:3].amax(dim=0))
        if rows * columns == tokens.shape[1] and torch.equal(ids, _ids(rows, columns, ids)):
            return NumberedTokens(rows, columns, ids)
    raise _not_one_picture("img_ids", tokens)


def _shaped(tokens: Tensor, shapes: Any) -> ShapedTokens:
    each = [tuple(shape[0]) if isinstance(shape, list) and len(shape) == 1 else shape for shape in shapes]
    if len(set(map(str, each))) == 1 and isinstance(each[0], tuple) and len(each[0]) == 3:
        frames, rows, columns = each[0]
        if frames == 1 and rows * columns == tokens.shape[1]:
            return ShapedTokens(rows, columns, shapes)
    raise _not_one_picture("img_shapes", tokens)


def _not_one_picture(name: str, tokens: Tensor) -> RekernelError:
    return RekernelError(
        f"{name} are not the positions of one picture's {tokens.shape[1]} tokens, row by row; rekernel reads the grid "
        f"of one picture (no second one as context)"
    )


def _ids(rows: int, columns: int, like: Tensor) -> Tensor:
    """Positions with the dtype and number of axes of `like`; columns other than the two of the grid are kept."""
    first = like.reshape(-1, like.shape[-1])[0]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    made = first.expand(rows * columns, -1).clone()
    made[:, 1], made[:, 2] = y.flatten().to(like), x.flatten().to(like)
    return made.expand(*like.shape[:-2], *made.shape)
