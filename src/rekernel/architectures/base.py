"""What a family of models is: how its names are recognised and what they tell of a layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerFacts:
    """What a layer's name tells beyond its shape.

    role : 'conv', 'conv-transpose', 'patch' (stride = kernel, no overlap), 'positions' (values on the token grid)
    stride : along every spatial axis
    padding : (left, right); None is 'same' for odd kernels
    prefix : class and register tokens in front of the grid, for 'positions'
    layout : axes of the weight, where its name does not end as a weight's
    view : shape of the kernel, where the tensor holds it flattened
    refusal : why the tensor cannot be rescaled; whoever selects it is told
    """

    role: str = "conv"
    stride: int = 1
    padding: tuple[int, int] | None = None
    prefix: int = 0
    layout: str = ""
    view: tuple[int, ...] = ()
    refusal: str = ""


class Family(Protocol):
    """One architecture's naming scheme."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def default(self) -> str:
        """The preset used where nothing is included by hand."""

    def recognises(self, shapes: Shapes) -> bool:
        """Whether a checkpoint with these tensors is of the family."""

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        """What is known of tensor `name`; None where it is no layer of the family, so that its stride is a guess."""

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        """Patterns by preset name, only such as have a tensor to match."""

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        """What must change in the model that no tensor shows."""


def exactly(names: Iterable[str]) -> tuple[str, ...]:
    """One pattern that matches these names and no other; none where there are none.

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
    """Sorted numbers that the pattern's group takes among the names."""
    return sorted({int(m[1]) for name in shapes if (m := re.search(pattern, name))})
