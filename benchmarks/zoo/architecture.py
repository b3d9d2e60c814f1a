"""What the zoo says of one architecture: how it is built, what it is called with, and which of its results counts.

Scope: the record and its usual arguments. Not here: any architecture (see `zoo_*.py`), and running one (see `measure`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Arguments = tuple[Any, ...] | dict[str, Any]


def image_alone(image: Tensor) -> Arguments:
    """The image is the only argument."""
    return (image,)


def first_tensor(result: Any) -> Tensor:
    """The first floating-point tensor of a result, in the order in which the model gives them."""
    if isinstance(result, Tensor):
        return result
    values = result.values() if isinstance(result, Mapping) else getattr(result, "__dict__", {}).values()
    if isinstance(result, list | tuple):
        values = result
    for value in values:
        if value is not None and not isinstance(value, str | int | float | bool):
            try:
                return first_tensor(value)
            except TypeError:
                continue
    raise TypeError(f"no tensor in a {type(result).__name__}")


@dataclass(frozen=True)
class Architecture:
    """One network of a zoo.

    build : function that makes the network; its weights are drawn anew afterwards
    shape : channels and pixels of an input of the trained size; no channels (an empty first entry, 0) for an input of
        (N, *pixels)
    arguments : the arguments of the network, of a batch of images
    output : the tensor of the result that counts
    scale : the scale that doubles the resolution, one for all axes or one per axis
    grid : tokens per axis at the trained size, where the output has tokens whose grid is not square
    keep : parts of the names of parameters whose own initialisation stays
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    arguments: Callable[[Tensor], Arguments] = image_alone
    output: Callable[[Any], Tensor] = first_tensor
    scale: float | tuple[float, ...] = 2
    grid: tuple[int, ...] = ()
    keep: tuple[str, ...] = field(default=())

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels of an input of the trained size."""
        return self.shape[1:]

    @property
    def scales(self) -> tuple[float, ...]:
        """One scale per axis."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,) * len(self.size)


def called(network: nn.Module, given: Arguments) -> Any:
    """The result of a network on its arguments, the same at every call for a network that draws random numbers."""
    torch.manual_seed(0)
    with torch.no_grad():
        return network(**given) if isinstance(given, dict) else network(*given)
