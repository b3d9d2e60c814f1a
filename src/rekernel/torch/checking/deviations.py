"""Measure how far an output at the new size is from the same output at the trained size.

Scope: two tensors. Not here: which tensors (see `checking.answers`), and which deviation is too large (see
`checking.by_running`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from ...resampling.geometry import is_whole
from ..measure.equivariance import reduce_grid

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
_TINY = 1e-30
EXACT = 1e-4
"""Bound on the error of an identity, for float32 and float64."""
_ROUNDING = 32  # an identity in a lower precision may be off by as many units in the last place


def exact_bound(dtype: torch.dtype) -> float:
    """The bound on the error of an identity of floats of a dtype.

    Examples
    --------
    >>> exact_bound(torch.float32), exact_bound(torch.bfloat16)
    (0.0001, 0.25)
    """
    return max(EXACT, _ROUNDING * torch.finfo(dtype).eps)


def equal(old: Tensor, new: Tensor) -> float | None:
    """||new - old|| / ||old||; None where the shapes differ.

    Examples
    --------
    >>> equal(torch.ones(4), torch.ones(4) * 1.5)
    0.5
    """
    if old.shape != new.shape:
        return None
    return float((new - old).norm() / old.norm().clamp_min(_TINY))


def at_phase_0(old: Tensor, new: Tensor, scales: Sequence[float]) -> float | None:
    """The deviation of the new pixels at phase 0, which a network of dilated layers has in common with the trained one.

    Examples
    --------
    >>> at_phase_0(torch.ones(1, 1, 2), torch.tensor([[[1.0, 7.0, 1.0, 7.0]]]), (2.0,))
    0.0
    """
    old, new, grown = _on_grid(old, new, scales)
    if grown is None or not all(map(is_whole, grown)):
        return None
    every: Any = (..., *(slice(None, None, round(s)) for s in grown))
    part = new[every]
    return equal(old, part)


def smooth(old: Tensor, new: Tensor, scales: Sequence[float], *, border: float = 0.0) -> float | None:
    """The deviation of the new pixels from the old ones enlarged, relative to how much the old ones vary.

    None where the shapes are not the same but for axes that grew by the scale.

    Parameters
    ----------
    border : float
        Share of each axis that is left out on both sides.

    Examples
    --------
    >>> ramp = torch.arange(8.0)[None, None]
    >>> round(smooth(ramp, torch.arange(16.0)[None, None] / 2 - 0.25, (2.0,), border=0.125), 6)
    0.0
    """
    old, new, grown = _on_grid(old, new, scales)
    if grown is None:
        return equal(old, new)
    sizes = tuple(new.shape[2:])
    same = old if sizes == tuple(old.shape[2:]) else F.interpolate(old, sizes, mode=_MODES[len(sizes)])
    inside: Any = (..., *(slice(round(n * border), n - round(n * border)) for n in sizes))
    same, new = same[inside], new[inside]
    axes = tuple(range(2, old.ndim))
    spread = (same - same.mean(axes, keepdim=True)).norm()
    return float((new - same).norm() / (spread + 0.05 * same.norm()).clamp_min(_TINY))


def reduced(old: Tensor, new: Tensor, scales: Sequence[float]) -> float | None:
    """The error of the new output, reduced to the size of the old one by the mean of each area.

    Examples
    --------
    >>> reduced(torch.ones(1, 1, 2), torch.tensor([[[1.0, 1.0, 2.0, 0.0]]]), (2.0,))
    0.0
    """
    old, new = channels_first(old, new, scales)
    if old.shape == new.shape:
        return equal(old, new)
    if (ahead := tokens_ahead(old, new, scales)) is not None:
        return equal(*(torch.cat([t[:, :ahead], t[:, ahead:].mean(1, keepdim=True)], 1) for t in (old, new)))
    if old.ndim != new.ndim or old.ndim < 3 or old.shape[:2] != new.shape[:2]:
        return None
    return equal(old, reduce_grid(new, tuple(old.shape[2:])))


def tokens_ahead(old: Tensor, new: Tensor, scales: Sequence[float]) -> int | None:
    """Number of tokens in front of those of the image in (N, T, C), whose number grew by all scales; None if none did.

    Examples
    --------
    >>> tokens_ahead(torch.zeros(1, 17, 8), torch.zeros(1, 65, 8), (2.0, 2.0))
    1
    """
    factor = math.prod(scales)
    if old.ndim != 3 or new.ndim != 3 or len(scales) < 2 or factor == 1 or old.shape[2] != new.shape[2]:
        return None
    ahead = (factor * old.shape[1] - new.shape[1]) / (factor - 1)
    return round(ahead) if is_whole(ahead) and 0 <= ahead < old.shape[1] else None


def channels_first(old: Tensor, new: Tensor, scales: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(N, *spatial, C) as (N, C, *spatial), if only the axes before the last one grew; anything else as it is.

    Examples
    --------
    >>> [tuple(t.shape) for t in channels_first(torch.zeros(1, 4, 6, 2), torch.zeros(1, 8, 12, 2), (2.0, 2.0))]
    [(1, 2, 4, 6), (1, 2, 8, 12)]
    """
    last = old.ndim == new.ndim == len(scales) + 2 and old.shape[1] != new.shape[1] and old.shape[-1] == new.shape[-1]
    return (old.movedim(-1, 1), new.movedim(-1, 1)) if last else (old, new)


def _on_grid(old: Tensor, new: Tensor, scales: Sequence[float]) -> tuple[Tensor, Tensor, tuple[float, ...] | None]:
    """Both as (N, C, *spatial), and by how much each spatial axis grew; None if this is not a grid of the image."""
    old, new = channels_first(old, new, scales)
    count = len(scales)
    if old.ndim != new.ndim or old.ndim != count + 2 or old.shape[:2] != new.shape[:2] or count not in _MODES:
        return old, new, None
    grown = tuple(m / n for n, m in zip(old.shape[2:], new.shape[2:], strict=True))
    fits = all(abs(m - n * s) < 1 for n, m, s in zip(old.shape[2:], new.shape[2:], scales, strict=True))
    return old, new, grown if fits and max(old.shape[2:]) > 1 else None


def inner(old: Tensor, new: Tensor, scales: Sequence[float], *, border: float = 0.3) -> float | None:
    """The relative error of the mean over the inner part of a grid: the gain of a picture of one value.

    Examples
    --------
    >>> inner(torch.ones(1, 1, 8), torch.full((1, 1, 16), 3.0), (2.0,))
    2.0
    """
    old, new, grown = _on_grid(old, new, scales)
    if grown is None:
        return equal(old, new)
    means = []
    for tensor in (old, new):
        inside: Any = (..., *(slice(round(n * border), n - round(n * border)) for n in tensor.shape[2:]))
        means.append(tensor[inside].mean(tuple(range(2, tensor.ndim))))
    return equal(*means)


def displacement(
    old: Tensor, new: Tensor, scales: Sequence[float], *, border: float = 0.2, besides: Sequence[Tensor] = ()
) -> tuple[float, ...] | None:
    """How far the new pixels lie beside their place, in new pixels along each axis; None where this cannot be told.

    The least-squares step along the gradient of the old pixels, enlarged: a picture that lies `d` pixels to the right
    has the values that the picture has `d` pixels further left. What a network does to the values themselves has no
    preferred direction, so it adds little.

    Parameters
    ----------
    besides : sequence of Tensor
        What else may change, with the shape of `old`: the step along these is found too, and left out.

    Examples
    --------
    >>> wave = torch.sin(torch.arange(64.0) / 5)[None, None]
    >>> late = torch.sin((torch.arange(128.0) - 0.5 - 0.5) / 10)[None, None]
    >>> [round(d, 1) for d in displacement(wave, late, (2.0,))]
    [0.5]
    """
    old, new, grown = _on_grid(old, new, scales)
    if grown is None or tuple(old.shape[2:]) == tuple(new.shape[2:]):
        return None
    sizes = tuple(new.shape[2:])
    same = F.interpolate(old.double(), sizes, mode=_MODES[len(sizes)])
    margin = [max(2, round(n * border)) for n in sizes]
    if any(n - 2 * m < 4 for n, m in zip(sizes, margin, strict=True)):
        return None
    inside: Any = (..., *(slice(m, n - m) for n, m in zip(sizes, margin, strict=True)))
    slopes = torch.stack([torch.gradient(same, dim=axis)[0][inside].reshape(-1) for axis in range(2, same.ndim)], 1)
    others = [F.interpolate(each.double(), sizes, mode=_MODES[len(sizes)])[inside].reshape(-1) for each in besides]
    values = torch.stack([same[inside].reshape(-1), torch.ones_like(slopes[:, 0]), *others], 1)
    columns = torch.cat([slopes, values], 1)
    products = columns.T @ columns
    if float(torch.linalg.cond(products)) > 1e8:
        return None
    found = torch.linalg.solve(products, columns.T @ (new.double() - same)[inside].reshape(-1))
    return tuple(-float(d) for d in found[: len(sizes)])
