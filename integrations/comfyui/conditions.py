"""Reduce the conditions of a ComfyUI model for a pass at a smaller size.

Scope: the arguments of `BaseModel.apply_model` beside image and sigma. What lies on the grid of the image is averaged:
joined channels, masks, the residuals of a ControlNet (also as tokens). The sizes that SDXL is told are divided. Other
embeddings stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .sdxl_sizes import divided_sizes


def reduced(conditions: Mapping[str, Any], split: Any, model: Any) -> dict[str, Any]:
    """The conditions for the pass at `split.low` pixels.

    Parameters
    ----------
    conditions : by name, for a pass at `split.size` pixels
    split : rekernel.diffusion.Split
    model : the `BaseModel`
    """
    made = {name: _on_grid(value, split) for name, value in conditions.items()}
    if "control" in made:
        made["control"] = _control(made["control"], split)
    if "y" in made:
        made["y"] = divided_sizes(made["y"], split, model)
    return made


def _on_grid(value: Any, split: Any) -> Any:
    axes = len(split.size)
    on_grid = isinstance(value, Tensor) and value.ndim == axes + 2 and tuple(value.shape[-axes:]) == split.size
    return split.reduce_grid(value) if on_grid else value


def _control(value: Any, split: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {part: [_residual(v, split) for v in values] for part, values in value.items()}


def _residual(value: Any, split: Any) -> Any:
    """Reduce a feature map (B, C, h, w) or its tokens (B, h w, C); other values, such as None, do not change."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim >= 4:
        axes = min(len(split.size), value.ndim - 2)
        return split.at(tuple(value.shape[-axes:])).reduce_grid(value)
    side = math.sqrt(math.prod(split.size) / value.shape[1]) if value.ndim == 3 and value.shape[1] else 0.0
    grid = tuple(-(-n // max(1, round(side))) for n in split.size)
    if not side or math.prod(grid) != value.shape[1]:
        return value
    maps = value.transpose(1, 2).reshape(len(value), -1, *grid)
    return split.at(grid).reduce_grid(maps).flatten(2).transpose(1, 2)
