"""Pad or crop each side of a tensor by another amount, in any of torch's modes, and undo explicit padding of a model.

Scope: tensors, and the padding attributes of a convolution. Not here: how much padding a rescaled layer needs (see
`resampling.geometry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

Sides = tuple[tuple[int, int], ...]


def pad_sides(x: Tensor, sides: Sequence[tuple[int, int]], mode: str = "zeros", value: float = 0.0) -> Tensor:
    """Pad each spatial axis of `x` by (left, right) pixels; negative numbers crop.

    Examples
    --------
    >>> import torch
    >>> pad_sides(torch.ones(1, 1, 2), [(2, -1)]).tolist()
    [[[0.0, 0.0, 1.0]]]
    """
    if any(side < 0 for pair in sides for side in pair):
        x = F.pad(x, _flat([(min(left, 0), min(right, 0)) for left, right in sides]))
    added = [(max(left, 0), max(right, 0)) for left, right in sides]
    if any(side for pair in added for side in pair):
        x = F.pad(x, _flat(added)) if mode == "zeros" and value == 0 else _pad_with(x, added, mode, value)
    return x


def _pad_with(x: Tensor, sides: Sequence[tuple[int, int]], mode: str, value: float) -> Tensor:
    return F.pad(x, _flat(sides), value=value) if mode == "zeros" else F.pad(x, _flat(sides), mode=mode)


def _flat(sides: Sequence[tuple[int, int]]) -> list[int]:
    # torch lists the last axis first.
    return [n for pair in reversed(sides) for n in pair]


class OwnPadding:
    """A base class of layers that pad each side by another amount, after explicit padding in the model's code.

    Explicit padding with zeros stays, and the layer adds the rest (or crops). In any other mode the layer crops the
    explicit padding and pads again, since the reflection of a reflection is not the reflection of the image.
    """

    def _set_padding(self, sides: Sides, mode: str, by_hand: Sides, by_hand_mode: str) -> None:
        redone = bool(by_hand) and by_hand_mode != "constant"
        self.sides, self.padding_mode = sides, by_hand_mode if redone else mode
        self.crop = tuple((-left, -right) for left, right in by_hand) if redone else ()

    def _padded(self, x: Tensor, sides: Sides) -> Tensor:
        if self.crop:
            x = pad_sides(x, self.crop)
        return pad_sides(x, sides, self.padding_mode)


def own_padding(layer: Any) -> tuple[tuple[int, int], ...]:
    """(left, right) of a convolution's own padding along each axis.

    Examples
    --------
    >>> from torch import nn
    >>> own_padding(nn.Conv1d(1, 1, 4, padding="same"))
    ((1, 2),)
    """
    if layer.padding == "valid":
        return ((0, 0),) * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in layer.padding)


def tuple_of(value: Any, count: int) -> tuple[int, ...]:
    """One number per axis, from a number for all axes or a sequence."""
    return (value,) * count if isinstance(value, int) else tuple(value)
