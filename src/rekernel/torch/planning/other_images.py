"""Note inputs that are images of another size than the one that is rescaled.

Scope: the arguments of a model. Not here: which of them is the image (see `torch.tracing.run`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ...text import dims


def other_images(values: Iterable[Any], size: tuple[int, ...]) -> list[str]:
    """Notes about images of another size, which do not grow with the image of `size` pixels.

    Examples
    --------
    >>> import torch
    >>> image, map_, words = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, 768)
    >>> other_images([image, map_, words], (16, 16))
    ['example_input: an image of 32x32 pixels stays at its size beside the one of 16x16; rescale what reads it alone']
    """
    found = dict.fromkeys(
        tuple(value.shape[2:])
        for value in values
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim == len(size) + 2 > 3
    )
    ours = dims(size)
    return [
        f"example_input: an image of {dims(other)} pixels stays at its size beside the one of {ours}; "
        f"rescale what reads it alone"
        for other in found
        if other != size and min(other) > 1
    ]
