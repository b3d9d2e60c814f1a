"""Images to probe with, and the reduction of images and outputs to the trained size.

Scope: tensors. Not here: networks (see `measure`). Nothing here comes from rekernel: the oracle is its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CYCLES = 2
"""A smooth image has no more cycles across it: half a cycle a pixel on the coarsest grid of a network, 4x4."""


def smooth(count: int, channels: int, size: Sequence[int], seed: int, cycles: int = CYCLES) -> Tensor:
    """Random images of a few cycles: (count, channels, *size), of mean square about one; no channels if `channels` is 0.

    The image of seed `n` is the same picture at every size: the mean over the area of each pixel.
    """
    draw = torch.Generator().manual_seed(seed)
    image, power = torch.zeros(count, max(channels, 1), *size), torch.zeros(count, 1)
    waves = torch.cartesian_prod(*(torch.arange(-cycles, cycles + 1),) * len(size)).reshape(-1, len(size))
    for wave in waves[torch.randperm(len(waves), generator=draw)[:60]].tolist() + [[0] * len(size)]:
        strength = torch.randn(count, max(channels, 1), 2, generator=draw) / (1 + math.hypot(*wave))
        angle = torch.zeros(())
        damping = 1.0
        for axis, (k, n) in enumerate(zip(wave, size, strict=True)):
            along = (torch.arange(n) + 0.5) / n * 2 * math.pi * k
            angle = angle[..., None] + along if axis else along
            damping *= float(torch.sinc(torch.tensor(k / n)))
        shape = (..., *(None,) * len(size))
        power += (strength[..., 0].square() if not any(wave) else strength.square().sum(-1) / 2).mean(1, keepdim=True)
        image += damping * (strength[..., 0][shape] * angle.cos() + strength[..., 1][shape] * angle.sin())
    image = image / power.sqrt()[(..., *(None,) * len(size))]
    return image if channels else image[:, 0]


def rough(count: int, channels: int, size: Sequence[int], seed: int) -> Tensor:
    """White noise."""
    shape = (count, channels, *size) if channels else (count, *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reduced(image: Tensor, scales: Sequence[float]) -> Tensor:
    """The mean of every block of pixels, on the last axes."""
    first = image.ndim - len(scales)
    for axis, scale in enumerate(scales, start=first):
        image = _blocks(image, axis, round(scale))
    return image


def _blocks(image: Tensor, axis: int, scale: int) -> Tensor:
    return image.unflatten(axis, (-1, scale)).mean(axis + 1) if scale > 1 else image


class Growth(NamedTuple):
    """An axis of an output that grew: one of pixels, or one of tokens on a grid.

    grid : sizes at the trained size, one number for an axis of pixels
    ahead : tokens in front of the grid
    scales : one for each number of `grid`
    """

    axis: int
    grid: tuple[int, ...]
    ahead: int
    scales: tuple[int, ...]


def growth(
    new: Sequence[int], old: Sequence[int], scales: Sequence[float], grid: Sequence[int] = ()
) -> list[Growth] | None:
    """Which axes of an output grew, from its shapes. None if they do not tell.

    An axis that grew by all scales at once, but for some tokens in front, is one of tokens; `grid`, or a square, or a
    cube.
    """
    if len(new) != len(old):
        return None
    grown = []
    for axis, (n, m) in enumerate(zip(new, old, strict=True)):
        if n == m:
            continue
        if any(n == m * s for s in scales):
            grown.append(Growth(axis, (m,), 0, (n // m,)))
            continue
        times = round(math.prod(scales))
        ahead, rest = divmod(times * m - n, times - 1)
        sides = tuple(grid) or (round(max(m - ahead, 0) ** (1 / len(scales))),) * len(scales)
        if rest or not 0 <= ahead < math.prod(sides) or math.prod(sides) != m - ahead:
            return None
        grown.append(Growth(axis, sides, ahead, tuple(round(s) for s in scales)))
    return grown


def matched(answer: Tensor, grown: Sequence[Growth]) -> Tensor:
    """An output at the new size, averaged to the shape of the one at the trained size."""
    for axis, grid, ahead, scales in grown:
        front, rest = answer.split([ahead, answer.shape[axis] - ahead], axis)
        rest = rest.unflatten(axis, [g * s for g, s in zip(grid, scales, strict=True)])
        for number, scale in enumerate(scales):
            rest = _blocks(rest, axis + number, scale)
        answer = torch.cat([front, rest.flatten(axis, axis + len(grid) - 1)], axis)
    return answer


def moved_back(answer: Tensor, grown: Sequence[Growth], part: float) -> Tensor:
    """An output at the trained size, its grid moved back by a part of its size."""
    for axis, grid, ahead, scales in grown:
        front, rest = answer.split([ahead, answer.shape[axis] - ahead], axis)
        rest = rest.unflatten(axis, list(grid))
        for number, (n, scale) in enumerate(zip(grid, scales, strict=True)):
            rest = rest.roll(-round(n * part), axis + number) if scale > 1 else rest
        answer = torch.cat([front, rest.flatten(axis, axis + len(grid) - 1)], axis)
    return answer


def distance(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))
