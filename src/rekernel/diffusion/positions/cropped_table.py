"""Enlarge the table of positions of Stable Diffusion 3, of which the network crops the middle.

Scope: diffusers' `PatchEmbed` with a largest size. Not here: rotary tables (see `tables`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...resampling.arrays import resample
from ...resampling.operators import grid_operator
from .lending import Loan


def cropped_table(network: nn.Module) -> Any:
    """The part of a network that crops a table of positions, or None for a network without one."""
    part = getattr(network, "pos_embed", None)
    return part if type(part).__name__ == "PatchEmbed" and getattr(part, "pos_embed_max_size", None) else None


def enlarged_crop(part: Any, scales: Sequence[float]) -> Loan:
    """What to lend to that part for a call whose rows and columns are rescaled: the trained crop, enlarged.

    Cubic interpolation on the grid of token centres, as for tables of positions in `rekernel.torch.rescale`.
    """

    def crop(height: int, width: int) -> Tensor:
        tokens = (height // part.patch_size, width // part.patch_size)
        trained = [max(1, round(n / s)) for n, s in zip(tokens, scales, strict=True)]
        table = type(part).cropped_pos_embed(part, *(n * part.patch_size for n in trained))
        grid = table.reshape(1, *trained, -1)
        matrices = {
            axis: grid_operator(n, m, "cubic", gain="none")
            for axis, n, m in zip((-3, -2), trained, tokens, strict=True)
            if n != m
        }
        enlarged = resample(grid, matrices) if matrices else grid
        result: Tensor = enlarged.reshape(1, -1, table.shape[-1]).to(table.dtype)
        return result

    return Loan(part, "cropped_pos_embed", crop)
