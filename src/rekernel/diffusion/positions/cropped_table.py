"""Enlarge the table of positions of Stable Diffusion 3, of which the network crops the middle.

Scope: diffusers' `PatchEmbed` with a largest size. Not here: rotary tables (see `tables`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...resampling.arrays import resample
from ...resampling.operators import grid_operator


def cropping_part(network: nn.Module) -> Any:
    """The part of a network that crops a table of positions, or None for a network without one."""
    part = getattr(network, "pos_embed", None) if type(network).__name__ == "SD3Transformer2DModel" else None
    return part if getattr(part, "pos_embed_max_size", None) else None


class EnlargedCrop:
    """The crop of the trained size, enlarged; it stands in for `cropped_pos_embed` of a part during a call.

    Cubic interpolation on the grid of token centres, as for tables of positions in `rekernel.torch.rescale`. It is kept
    from call to call, so that compiled code stays valid.

    Parameters
    ----------
    part : diffusers' `PatchEmbed`
    tokens : rows and columns of the call
    scales : tokens over trained tokens, for rows and columns
    """

    def __init__(self, part: Any, tokens: Sequence[int], scales: Sequence[float]) -> None:
        self.part, self.tokens = part, tuple(tokens)
        self.trained = [max(1, round(n / s)) for n, s in zip(tokens, scales, strict=True)]
        self.enlarged: Any = None
        self._source: Any = None

    def update(self) -> None:
        """Enlarge again where the table of the part was replaced, moved or cast."""
        table = self.part.pos_embed
        source = (id(table), table.device, table.dtype)
        if source != self._source:
            self.enlarged, self._source = self._enlarge(), source

    def _enlarge(self) -> Tensor:
        crop = type(self.part).cropped_pos_embed(self.part, *(n * self.part.patch_size for n in self.trained))
        grid = crop.reshape(1, *self.trained, -1)
        matrices = {
            axis: grid_operator(n, m, "cubic", gain="none")
            for axis, n, m in zip((-3, -2), self.trained, self.tokens, strict=True)
            if n != m
        }
        enlarged = resample(grid, matrices) if matrices else grid
        result: Tensor = enlarged.reshape(1, -1, crop.shape[-1]).to(crop.dtype)
        return result

    def __call__(self, height: int, width: int) -> Tensor:
        enlarged: Tensor = self.enlarged
        return enlarged
