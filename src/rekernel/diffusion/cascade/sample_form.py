"""Convert the image of a pipeline's sampling loop to (B, C, ..., height, width) and back: grids, or tokens.

Scope: shapes of pipelines. Not here: arguments of a network (see `denoiser/image_layout`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import RekernelError
from ..denoiser.blocks import packed_blocks, stacked_blocks, unpacked_blocks
from .sizes import Size, text_of

GRID, BLOCKS, PIXELS = "grid", "blocks of 2 x 2", "pixels"


@dataclass(frozen=True)
class SampleForm:
    """How a pipeline holds its image while it samples.

    tokens : GRID for (B, C, ..., height, width); BLOCKS for a token for each 2 x 2 pixels of the grid, row by row
        (Flux); PIXELS for a token for each pixel of each frame (LTX-Video)
    stacked : whether the pipeline takes its latents as blocks on a grid, (B, 4 C, height / 2, width / 2) (Flux 2)
    cell : pixels of the picture for one pixel of the grid
    """

    tokens: str
    stacked: bool
    cell: int

    @classmethod
    def of(cls, pipe: Any, cell: int, sample: Tensor | None = None, size: Size = (1, 1)) -> SampleForm:
        """The form of a pipeline, told by a sample of it where there is one."""
        stacked = hasattr(pipe, "_patchify_latents")
        if sample is None:
            patch = getattr(pipe, "transformer_spatial_patch_size", 2)
            return cls((BLOCKS if patch == 2 else PIXELS) if hasattr(pipe, "_pack_latents") else GRID, stacked, cell)
        if sample.ndim != 3:
            return cls(GRID, stacked, cell)
        blocks = sample.shape[1] * 4 == (size[0] // cell) * (size[1] // cell)
        return cls(BLOCKS if blocks else PIXELS, stacked, cell)

    def grid(self, sample: Tensor, size: Size) -> Tensor:
        """The image as a grid, from a sample of a picture of `size` pixels.

        Raises
        ------
        RekernelError
            For a sample that is not of that size.
        """
        height, width = size[0] // self.cell, size[1] // self.cell
        batch, count = sample.shape[:2]
        if self.tokens == BLOCKS and sample.ndim == 3 and count * 4 == height * width:
            return unpacked_blocks(sample, height // 2, width // 2)
        if self.tokens == PIXELS and sample.ndim == 3 and count % (height * width) == 0:
            return sample.transpose(1, 2).reshape(batch, -1, count // (height * width), height, width)
        if sample.ndim < 4 or tuple(sample.shape[-2:]) != (height, width):
            raise RekernelError(
                f"at {text_of(size)} pixels the image has the shape {tuple(sample.shape)}, not {height} rows and "
                f"{width} columns nor as many tokens; a cascade does not know how this pipeline arranges its image"
            )
        return sample

    def sample(self, grid: Tensor) -> Tensor:
        """The grid in the form that the pipeline samples in."""
        if self.tokens == GRID:
            return grid
        if self.tokens == PIXELS:
            return grid.flatten(2).transpose(1, 2)
        return packed_blocks(grid)

    def latents(self, grid: Tensor) -> Tensor:
        """The grid in the form in which the pipeline takes its argument `latents`."""
        return stacked_blocks(grid) if self.stacked else self.sample(grid)
