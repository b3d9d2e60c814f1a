"""Reduce the rotary table that a pipeline of CogVideoX gives to its network, for a pass on fewer tokens.

Scope: diffusers' `get_3d_rotary_pos_embed`: cosines and sines (tokens, channels), every angle twice, the channels of
frames, rows and columns one after the other. Not here: the other arguments of a call (see `conditions`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Table = tuple[Tensor, Tensor]


def is_rotary_table(value: Any, tokens: Sequence[int]) -> bool:
    """Whether a value is a table of cosines and sines for `tokens` frames, rows and columns."""
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(part, Tensor) and part.ndim == 2 and len(part) == math.prod(tokens) for part in value)
        and len(tokens) == 3
        and value[0].shape[1] % 8 == 0
    )


def channels_by_axis(channels: int) -> tuple[int, int, int]:
    """Channels of frames, rows and columns among the channels of a head.

    Examples
    --------
    >>> channels_by_axis(64)
    (16, 24, 24)
    """
    return channels // 4, channels // 8 * 3, channels // 8 * 3


def reduced_table(table: Sequence[Tensor], tokens: Sequence[int], low: Sequence[int]) -> Table:
    """The table that the pipeline would give for `low` tokens per axis.

    CogVideoX 1.0 spreads the positions of the trained grid over any grid, so that neighbours of a larger grid are less
    than 1 apart. CogVideoX 1.5 counts by 1. So the step of the low grid is that of the full grid times the factor, and
    at most 1.
    """
    cos, sin = (part.double().reshape(*tokens, -1)[..., ::2] for part in table)
    circle = torch.complex(cos, sin)
    blocks = torch.split(circle, [n // 2 for n in channels_by_axis(table[0].shape[1])], dim=-1)
    angles = []
    for axis, (block, n, m) in enumerate(zip(blocks, tokens, low, strict=True)):
        line = block.movedim(axis, 0)[:, 0, 0]
        first, turn = line[0].angle(), (line[1] / line[0]).angle() if n > 1 else torch.zeros_like(line[0].angle())
        step = float(turn[0])  # of the fastest frequency, which is 1
        ratio = min(n / m, 1 / step) if step > 0 else 1.0
        along = first + torch.arange(m, dtype=turn.dtype, device=turn.device)[:, None] * turn * ratio
        shape = [m if i == axis else 1 for i in range(3)]
        angles.append(along.reshape(*shape, -1).expand(*low, -1))
    turned = torch.cat(angles, dim=-1).flatten(0, 2).repeat_interleave(2, dim=-1)
    return turned.cos().to(table[0].dtype), turned.sin().to(table[1].dtype)
