"""Interface of a model family: recognise the tensor names, and tell the properties of each layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

Shapes = Mapping[str, tuple[int, ...]]
MAKES_IMAGES = (
    r"(^|[./_])(dec\d*|decod\w*|deconv\w*|conv_?transpose\w*|t_?conv\d*|unpool\w*|up\d*|up_?conv\w*|upsampl\w*|fpn\w*|"
    r"lateral_convs?|reassemble\w*|refine\w*|masks?|mask_head\w*|seg\w*)([./]|$)"
)
"""Pattern of the names of layers that enlarge feature maps, or give an answer for every pixel."""


@dataclass(frozen=True)
class LayerFacts:
    """Properties of a layer that follow from the name of the layer, not from the shape.

    role : 'conv', 'conv-transpose', 'patch' (stride = kernel, no overlap), 'positions' (values on the token grid)
    stride : stride along every spatial axis; 0 where the names do not tell it
    padding : (left, right) padding; None means 'same' padding of an odd kernel
    layout : axes of the weight, where the name of the tensor does not end like the name of a weight
    view : shape of the kernel, where the tensor stores the kernel flattened
    reads_image : whether the layer reads the image itself
    autoencoder : whether the layer belongs to an autoencoder, in a file that holds a noise predictor, too
    refusal : reason why the tensor cannot be rescaled, shown to users who select the tensor; empty if it can
    """

    role: str = "conv"
    stride: int = 1
    padding: tuple[int, int] | None = None
    layout: str = ""
    view: tuple[int, ...] = ()
    reads_image: bool = False
    autoencoder: bool = False
    refusal: str = ""


class Family(Protocol):
    """The naming scheme of one architecture."""

    @property
    def name(self) -> str:
        """Name of the family, for messages."""

    @property
    def default(self) -> str:
        """Name of the preset that applies if the user includes no pattern."""

    def recognises(self, shapes: Shapes) -> bool:
        """Whether a checkpoint with these tensors belongs to the family."""

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        """Return the properties of the layer of `name`; None if the family does not know the layer and its stride."""

    def gives_image(self, shapes: Shapes) -> bool:
        """Whether the network gives an image back: labels of pixels, noise, a picture."""

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        """Return patterns by preset name; every pattern matches a tensor."""

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        """Return notes on changes that the model needs and that no tensor shows."""


def exactly(names: Iterable[str]) -> tuple[str, ...]:
    """Return one pattern that matches exactly these names; no pattern if there are no names.

    Examples
    --------
    >>> exactly(["a.b", "c"])
    ('re:a\\\\.b|c',)
    """
    joined = "|".join(re.escape(name) for name in names)
    return (f"re:{joined}",) if joined else ()


def has_all(shapes: Shapes, *patterns: str) -> bool:
    return all(any(re.search(pattern, name) for name in shapes) for pattern in patterns)


def indices(shapes: Shapes, pattern: str) -> list[int]:
    """Return the sorted numbers that the group of the pattern matches in the names."""
    return sorted({int(m[1]) for name in shapes if (m := re.search(pattern, name))})
