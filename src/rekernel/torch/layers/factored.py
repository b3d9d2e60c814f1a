"""Rescaled convolutions in factored form: a blur of each channel, and a dilated convolution with the original weights.

Scope: weights, filters and strides. Both layers equal their dense form up to rounding, borders included. Not here: when
this form is chosen (see `torch.planning.cost`).
Derivation: docs/mathematics.md, "Interpolation = dilation, then smoothing", and docs/pytorch.md, "Where smoothing is
fused". The blur runs at the step of the convolution behind it (or before it, if that is transposed), so that it
computes only pixels that are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from .dense import CroppedConvTranspose, PaddedConv
from .padding import Sides, pad_sides

_CONV: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE: tuple[Any, ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def common_step(kernel: int, stride: int, spread: int) -> int:
    """The step between the pixels that a convolution reads; it never reads the pixels between.

    Examples
    --------
    >>> common_step(3, 2, 2), common_step(3, 1, 2), common_step(1, 2, 2), common_step(3, 4, 6)
    (2, 1, 2, 2)
    """
    return stride if kernel == 1 else math.gcd(stride, spread)


class _Smoothing(nn.Module):
    """The blur of a factored layer: one filter per axis.

    In a list of base classes, this class comes before the dense layer, which holds the weight and the padding.

    step : greatest common divisor of the stride and the spread of the convolution, per axis; 1 where nothing is blurred
    """

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, filters: Sequence[Tensor], *, stride: Sequence[int],
        spread: Sequence[int], dilation: Sequence[int], sides: Sides, groups: int = 1, **padding: Any,
    ) -> None:  # fmt: skip
        super().__init__(weight, bias, stride=stride, sides=sides, groups=groups, **padding)
        self._set_filters(filters, weight.shape[2:], stride, spread)
        self.dilation = tuple(dilation)  # the original value, like kernel_size, since code around the layer may read it

    def _set_filters(
        self, filters: Sequence[Tensor], kernel: Sequence[int], stride: Sequence[int], spread: Sequence[int]
    ) -> None:
        self._taps = tuple(taps.tolist() for taps in filters)
        self.blurred = tuple(taps != [1.0] for taps in self._taps)
        for axis, taps in enumerate(filters):
            self.register_buffer(f"filter_{axis}", taps, persistent=False)
        self.spread = tuple(spread)
        steps = map(common_step, kernel, stride, spread)
        self.step = tuple(step if blurred else 1 for step, blurred in zip(steps, self.blurred, strict=True))
        self._stride = tuple(t // step for t, step in zip(stride, self.step, strict=True))
        # The dilation of a single tap has no effect.
        self._spread = tuple(1 if k == 1 else d // step for k, d, step in zip(kernel, spread, self.step, strict=True))

    def taps(self, axis: int) -> Tensor:
        """The filter along a spatial axis."""
        found: Tensor = getattr(self, f"filter_{axis}")
        return found

    def refill(self) -> None:
        """Write the filters again, which no file holds: `to_empty` leaves them without values."""
        for axis, taps in enumerate(self._taps):
            self.taps(axis).copy_(torch.tensor(taps, dtype=torch.float64, device="cpu"))

    def _smooth(self, run: Any, x: Tensor, axis: int, padding: Sequence[int], **more: Any) -> Tensor:
        """Apply the filter of an axis to every channel; `run` is a convolution or a transposed convolution."""
        count, channels = len(self.step), x.shape[1]
        shape, step = [1] * count, [1] * count
        shape[axis], step[axis] = -1, self.step[axis]
        taps = self.taps(axis).to(x.dtype).reshape(1, 1, *shape)
        taps = taps.expand(channels, *taps.shape[1:])
        out: Tensor = run(x, taps, None, step, _alone(padding, axis), groups=channels, **more)
        return out

    def extra_repr(self) -> str:
        blur = "x".join(str(len(self.taps(axis))) for axis in range(len(self.step)))
        return f"{super().extra_repr()}, dilation={self.spread}, blur={blur}"


class FactoredConv(_Smoothing, PaddedConv):
    """A rescaled convolution as a depthwise blur and a dilated convolution with the original weights.

    The blur runs over the padded input and the convolution adds no padding, so the borders are those of the dense
    form. Where stride and dilation share a factor, the blur takes it over: at twice the size a convolution of stride 2
    reads every second pixel, so only those are made, and the convolution runs on them without stride or dilation.

    Parameters
    ----------
    weight, bias : nn.Parameter
        The parameters of the original layer, as the same objects.
    filters : list of (L,) tensors
        The blur, one filter per spatial axis.
    stride, spread : sequences of int
        Stride and dilation of the convolution that reads the blurred grid.
    dilation : sequence of int
        Dilation of the original layer.
    sides : ((left, right), ...)
        Padding before the blur.
    by_hand, by_hand_mode
        The explicit padding that the model adds before the layer, and its mode.
    """

    def _set_filters(
        self, filters: Sequence[Tensor], kernel: Sequence[int], stride: Sequence[int], spread: Sequence[int]
    ) -> None:
        super()._set_filters(filters, kernel, stride, spread)
        reach = [len(taps) - 1 if blurred else 0 for taps, blurred in zip(filters, self.blurred, strict=True)]
        split = [
            _split(pair, r, step) if self.padding_mode == "zeros" else (pair, 0, 0)
            for pair, r, step in zip(self.sides, reach, self.step, strict=True)
        ]
        self._before, self._inside, self._behind = (tuple(part) for part in zip(*split, strict=True))

    @property
    def behind(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Stride, padding and dilation of the convolution behind the blur."""
        return self._stride, self._behind, self._spread

    def smoothed(self, x: Tensor) -> Tensor:
        """The input of the convolution behind the blur."""
        x = self._padded(x, self._before)
        for axis, blurred in enumerate(self.blurred):
            if blurred:
                x = self._smooth(_CONV[len(self.sides) - 1], x, axis, self._inside)
        return x

    def forward(self, x: Tensor) -> Tensor:
        run = _CONV[len(self.sides) - 1]
        out: Tensor = run(self.smoothed(x), self.weight, self.bias, *self.behind, self.groups)
        return out


class FactoredConvTranspose(_Smoothing, CroppedConvTranspose):
    """A rescaled transposed convolution as a dilated one with the original weights, and a blur of its output.

    Stride and dilation come from the scale, so they usually share a factor. The blur takes that factor over and
    enlarges: at twice the size, a transposed convolution of stride 2 runs with stride 1 and no dilation, on a quarter
    of the grid.

    Parameters
    ----------
    weight, bias, filters, dilation
        As for `FactoredConv`.
    stride, spread : sequences of int
        Stride and dilation of the transposed convolution that writes the grid to be blurred.
    sides : ((left, right), ...)
        Number of pixels cropped from the full output (negative: added), one pair per spatial axis.
    """

    def forward(self, x: Tensor) -> Tensor:
        run = _CONV_TRANSPOSE[len(self.sides) - 1]
        x = run(x, self.weight, None, self._stride, groups=self.groups, dilation=self._spread)
        crop = [(-left, -right) for left, right in self.sides]
        for axis, blurred in enumerate(self.blurred):
            if not blurred:
                continue
            # Pixels that are cropped on both sides are not computed at all.
            inside = max(0, min(self.sides[axis]))
            x = self._smooth(run, x, axis, [inside] * len(crop))
            crop[axis] = (crop[axis][0] + inside, crop[axis][1] + inside)
        x = pad_sides(x, crop)
        bias: Tensor | None = self.bias
        return x if bias is None else x + bias.reshape(-1, *(1 for _ in self.sides))


def _alone(values: Sequence[int], axis: int) -> list[int]:
    """Padding along one axis only."""
    return [value if i == axis else 0 for i, value in enumerate(values)]


def _split(sides: tuple[int, int], reach: int, step: int) -> tuple[tuple[int, int], int, int]:
    """Split zero padding along an axis in three: a padded copy of the input, padding of blur and of convolution.

    The last one counts pixels of the blurred grid. The blur has to cover all pixels that the image reaches; beyond them
    its result is zero, so the convolution can pad instead. If both sides are equal, no copy of the input is made.

    Examples
    --------
    >>> _split((6, 6), 8, 1), _split((12, 12), 8, 1), _split((15, 14), 9, 2)
    (((0, 0), 6, 0), ((0, 0), 8, 4), ((11, 10), 0, 2))
    """
    behind = max(0, min(sides) - reach) // step
    left, right = (side - behind * step for side in sides)
    return ((0, 0), left, behind) if left == right >= 0 else ((left, right), 0, behind)
