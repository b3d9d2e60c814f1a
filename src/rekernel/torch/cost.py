"""What a rescaled convolution costs in each form: the model behind form='auto'.

Knows multiplications per output value; checked against the clock by benchmarks/speed/inference.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BLUR = 45.0
"""Cost of one multiplication of the depthwise blur, in multiplications of a dense convolution: it is bound by memory.
From benchmarks/speed/inference.py on two CPU cores: 9 + 9 taps added 14 % to a layer of 5760 multiplications a value,
8 to 10 % to larger ones (results/inference-cpu.json)."""


def dense_cost(inputs: int, groups: int, taps: Sequence[int]) -> float:
    """Multiplications per output value of a dense kernel.

    Examples
    --------
    >>> dense_cost(640, 1, (5, 5))
    16000.0
    """
    return float(inputs // groups * math.prod(taps))


def factored_cost(
    inputs: int, outputs: int, groups: int, kernel: Sequence[int], stride: Sequence[int], blur: Sequence[int]
) -> float:
    """The same of the original kernel, dilated, behind a blur of `blur` taps per axis on every input channel.

    Examples
    --------
    >>> factored_cost(640, 640, 1, (3, 3), (1, 1), (9, 9))
    6570.0
    >>> factored_cost(640, 640, 640, (3, 3), (1, 1), (9, 9)) > dense_cost(640, 640, (5, 5))  # depthwise: dense wins
    True
    """
    blurred = inputs / outputs * math.prod(stride) * sum(blur)
    return inputs // groups * math.prod(kernel) + BLUR * blurred
