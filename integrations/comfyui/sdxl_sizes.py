"""Divide the sizes that SDXL is told for a pass at a smaller size, as rekernel does with diffusers.

Scope: the end of SDXL's embedding `y`, where ComfyUI writes height, width, crop and target size as waves of 256 numbers
each. They are read back from the slowest wave, divided, and written again by the model's own embedder.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

WAVES = 256  # numbers for one size: cosines, then sines
SIZES = {"SDXL": 6, "SDXLRefiner": 5}  # how many are written, by the names of the classes in `comfy.model_base`
_CLOSE = 1e-2


def divided_sizes(y: Any, split: Any, model: Any) -> Any:
    """`y` with its sizes divided by the factors of `split`; `y` itself for other models.

    Parameters
    ----------
    y : (B, pooled text + 256 for each size) tensor
    split : rekernel.diffusion.Split
    model : the `BaseModel`
    """
    count = next((SIZES[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in SIZES), 0)
    if not count or not isinstance(y, Tensor) or y.shape[-1] <= count * WAVES:
        return y
    text, waves = y[:, : -count * WAVES], y[:, -count * WAVES :].float().reshape(len(y), count, WAVES)
    values = sizes_in(waves)
    if not torch.allclose(_written(values, model, waves), waves, atol=_CLOSE):
        return y  # another node wrote something else there
    rows, columns = (n / m for n, m in zip(split.size[-2:], split.low[-2:], strict=True))
    pairs = count // 2 * 2  # the refiner's last number is an aesthetic score
    values[:, 0:pairs:2] /= rows
    values[:, 1:pairs:2] /= columns
    return torch.cat([text, _written(values, model, waves).flatten(1).to(y.dtype)], dim=1)


def sizes_in(waves: Tensor) -> Tensor:
    """The numbers whose waves these are: (..., 256) to (...), below 29,000.

    Examples
    --------
    >>> angle = 1024.0 * 10000 ** (-torch.arange(128, dtype=torch.float64) / 128)
    >>> round(sizes_in(torch.cat([angle.cos(), angle.sin()])).item(), 3)
    1024.0
    """
    half = WAVES // 2
    slowest = math.exp(-math.log(10000) * (half - 1) / half)
    angle = torch.atan2(waves[..., -1], waves[..., half - 1])
    values = torch.where(angle < -_CLOSE * slowest, angle + 2 * math.pi, angle) / slowest
    return torch.where((values - values.round()).abs() < _CLOSE, values.round(), values)


def _written(values: Tensor, model: Any, waves: Tensor) -> Tensor:
    written: Tensor = model.embedder(values.flatten()).to(waves).reshape(waves.shape)
    return written
