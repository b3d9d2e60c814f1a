"""Choose some pictures for people to look at, with the answers of both networks.

Scope: pixels and answers. Not here: files and pages (see `torch.report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..running import Forward
from .difference import Tally
from .equivariance import answer, reduce_grid

_MOST = 8
_LARGEST = 256  # pixels of a side in the report
_CHANNELS = 64  # outputs with more channels are features, of which a map of the largest says nothing

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """One picture and what became of it.

    number : index of the picture
    picture : (H, W, 1 or 3) bytes, each picture scaled to its own range
    truth, original, converted : names of the classes, or their numbers; empty where the network is not a classifier or
        there are no labels
    changed : whether the answer changed
    maps : what the networks give, ('original', 'rescaled') -> bytes (H, W, 1 or 3), for answers that are a grid
    """

    number: int
    picture: Pixels
    truth: str = ""
    original: str = ""
    converted: str = ""
    changed: bool = False
    maps: Mapping[str, Pixels] | None = None


def shown_examples(
    model: nn.Module,
    rescaled: nn.Module,
    x: Tensor,
    size: tuple[int, ...],
    tallies: Mapping[str, Tally],
    forward: Forward | None,
    truth: NDArray[np.int64] | None,
    classes: Mapping[int, str],
) -> tuple[Example, ...]:
    """Up to eight pictures: half of them with a changed answer, where so many changed; none for other data than 2-D."""
    if x.ndim != 4:
        return ()
    if not tallies["converted"].classifies:
        return tuple(_with_maps(model, rescaled, x, size, forward, number) for number in range(min(len(x), _MOST)))
    old, new = tallies["original"].classes, tallies["converted"].classes
    changed = torch.nonzero(old != new).flatten().tolist()[: _MOST // 2]
    kept = torch.nonzero(old == new).flatten().tolist()
    chosen = changed + kept[: _MOST - len(changed)]

    def name(number: int) -> str:
        return classes.get(number, f"class {number}")

    return tuple(
        Example(
            i, as_pixels(x[i]), "" if truth is None else name(int(truth[i])), name(int(old[i])), name(int(new[i])),
            bool(old[i] != new[i]),
        )
        for i in chosen
    )  # fmt: skip


def _with_maps(
    model: nn.Module, rescaled: nn.Module, x: Tensor, size: tuple[int, ...], forward: Forward | None, number: int
) -> Example:
    one = x[number : number + 1]
    small = answer(model, reduce_grid(one, size), "the original", forward)[0]
    large = answer(rescaled, one, "the rescaled model", forward)[0]
    maps = None
    if small.ndim == 3 and large.ndim == 3 and len(small) <= _CHANNELS and min(small.shape[1:]) > 1:
        maps = {"original": as_pixels(small), "rescaled": as_pixels(large)}
    return Example(number, as_pixels(x[number]), maps=maps)


def as_pixels(picture: Tensor) -> Pixels:
    """Bytes (H, W, 1 or 3) of a picture (C, H, W), scaled to its own range; of more channels, the largest one's number.

    Examples
    --------
    >>> as_pixels(torch.tensor([[[0.0, 0.5], [1.0, 2.0]]]))[..., 0].tolist()
    [[0, 64], [128, 255]]
    """
    shown = picture.detach().to("cpu", torch.float32)
    step = max(1, -(-max(shown.shape[1:]) // _LARGEST))
    shown = shown[:, ::step, ::step]
    if len(shown) not in (1, 3):
        shown = shown.argmax(0, keepdim=True).float()
    low, high = shown.min(), shown.max()
    scaled = (shown - low) / (high - low).clamp_min(1e-12) * 255
    found: Pixels = scaled.nan_to_num().round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return found
