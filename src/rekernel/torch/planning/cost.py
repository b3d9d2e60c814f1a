"""Estimate what a rescaled convolution costs in the dense and the factored form, to choose one for form='auto'.

Scope: multiplications per output value; benchmarks/speed/inference.py compares the estimate with measured times. Not
here: making the change of either form (see `torch.planning.convolutions`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from ...plan.changes import LayerChange
from ..layers.factored import common_step

BLUR = 45.0
"""Cost of one multiplication of the depthwise blur, in multiplications of a dense convolution. Memory limits the blur.
From benchmarks/speed/inference.py on two CPU cores: 9 + 9 taps added 14 % to a layer of 5760 multiplications a value,
8 to 10 % to larger ones (results/inference-cpu.json)."""


def pays(layer: Any, dense: LayerChange, factored: LayerChange) -> bool:
    """Whether a convolution, transposed or not, runs faster in its planned factored form than in its dense form.

    Parameters
    ----------
    layer : nn.Conv1d, nn.ConvTranspose1d, ...
        The layer of the trained model.
    dense, factored : LayerChange
        The two possible changes of its weight.
    """
    kernel, stride = layer.kernel_size, [g.stride for g in factored.new_geometry]
    spread, blur = [g.dilation for g in factored.geometry], [0] * len(kernel)
    for o in factored.factors:
        axis = o.axis - 2
        spread[axis] *= round(o.scale)
        length = o.new - spread[axis] * (o.old - 1)
        blur[axis] = length if length > 1 else 0  # 'dilate' has no blur
    plain = dense_cost(layer.in_channels, layer.groups, dense.new_shape[2:])
    original = dense_cost(layer.in_channels, layer.groups, kernel)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        # In either form, one in `stride` taps contributes to an output pixel.
        plain, original = plain / math.prod(stride), original / math.prod(stride)
        return original + BLUR * transposed_blur(kernel, stride, spread, blur) < plain
    blurred: float = layer.in_channels / layer.out_channels * blur_taps(kernel, stride, spread, blur)
    return original + BLUR * blurred < plain


def dense_cost(inputs: int, groups: int, taps: Sequence[int]) -> float:
    """Multiplications per output value of a dense kernel.

    Examples
    --------
    >>> dense_cost(640, 1, (5, 5))
    16000.0
    """
    return float(inputs // groups * math.prod(taps))


def blur_taps(kernel: Sequence[int], stride: Sequence[int], spread: Sequence[int], blur: Sequence[int]) -> float:
    """Multiplications per output pixel in the blur of one channel. The blur runs along one axis after the other.

    Examples
    --------
    >>> blur_taps((3, 3), (1, 1), (2, 2), (9, 9))
    18.0
    >>> blur_taps((3, 3), (2, 2), (2, 2), (9, 9))  # made at every second pixel only: along one axis, then along both
    27.0
    """
    total, pixels = 0.0, math.prod(stride)
    for k, t, d, taps in zip(kernel, stride, spread, blur, strict=True):
        if taps:
            pixels //= common_step(k, t, d)
            total += pixels * taps
    return total


def transposed_blur(kernel: Sequence[int], stride: Sequence[int], spread: Sequence[int], blur: Sequence[int]) -> float:
    """Multiplications per output pixel in the blur behind a transposed convolution; this blur enlarges the grid.

    Examples
    --------
    >>> transposed_blur((4, 4), (2, 2), (2, 2), (10, 10))
    7.5
    """
    steps = [common_step(k, t, d) if taps else 1 for k, t, d, taps in zip(kernel, stride, spread, blur, strict=True)]
    total, pixels = 0.0, 1 / math.prod(steps)
    for step, taps in zip(steps, blur, strict=True):
        pixels *= step
        total += pixels * taps / step
    return total
