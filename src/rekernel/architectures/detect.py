"""Recognise a checkpoint: the conventions of the framework, and the family of the model.

Scope: combining `architectures.axis_order`, `architectures.lora` and `architectures.registry`. Not here: files (see
`checkpoint`) and scales (see `planning`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..patterns import matcher
from .axis_order import PYTORCH, Layout, layout_of, pytorch_name, pytorch_shape
from .base import Family, LayerFacts, Shapes, exactly
from .lora import Adapter
from .registry import recognise


@dataclass(frozen=True)
class Architecture:
    """What the names, shapes and metadata of a checkpoint show.

    family : family of the model, which takes the tensor names of the file; None if no family is recognised
    layout : conventions of the framework
    shapes : shapes of all tensors by name, with the axes in PyTorch's order
    """

    family: Family | None
    layout: Layout
    shapes: dict[str, tuple[int, ...]]


def architecture(shapes: Shapes, metadata: Mapping[str, str], asked: str | None = None) -> Architecture:
    """Recognise a checkpoint.

    Parameters
    ----------
    shapes : mapping
        Shapes of the tensors by name, as stored.
    metadata : mapping
        Metadata of the file.
    asked : str, optional
        Layout that the user gave for every tensor, such as 'HWIO'.

    Examples
    --------
    >>> flax = {"patch_embeddings/projection/kernel": (4, 4, 3, 8), "position_embeddings": (1, 5, 8)}
    >>> found = architecture(flax, {"format": "flax"})
    >>> found.family.name, found.shapes["patch_embeddings/projection/kernel"]
    ('vision transformer', (8, 3, 4, 4))
    """
    adapter = Adapter()
    if adapter.recognises(shapes):
        return Architecture(adapter, PYTORCH, dict(shapes))
    layout = layout_of(metadata, asked)
    if layout is PYTORCH:
        return Architecture(recognise(shapes), layout, dict(shapes))
    turned = {
        name: pytorch_shape(shape, layout.of(len(shape)) if is_weight(name) else None) for name, shape in shapes.items()
    }
    names = {name: pytorch_name(name) for name in shapes}
    family = recognise({names[name]: shape for name, shape in turned.items()})
    return Architecture(family and Renamed(family, names), layout, turned)


def is_weight(name: str) -> bool:
    """Whether the name is the name of a kernel or matrix, in any framework, or of its direction under weight norm.

    Examples
    --------
    >>> is_weight("conv/kernel"), is_weight("conv.weight"), is_weight("pos_embed")
    (True, True, False)
    """
    return name.removesuffix(":0").endswith(("kernel", "weight", "weight_v", "parametrizations.weight.original1"))


@dataclass(frozen=True)
class Renamed:
    """A family, for a file in which the layers have other names.

    family : family that uses PyTorch's names
    names : PyTorch's name of each tensor, by the name in the file
    """

    family: Family
    names: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def default(self) -> str:
        return self.family.default

    def recognises(self, shapes: Shapes) -> bool:
        return self.family.recognises(self._renamed(shapes))

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        return self.family.facts(self.names[name], self._renamed(shapes))

    def gives_image(self, shapes: Shapes) -> bool:
        return self.family.gives_image(self._renamed(shapes))

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        presets = {}
        for preset, patterns in self.family.presets(self._renamed(shapes)).items():
            tests = [matcher(pattern) for pattern in patterns]
            presets[preset] = exactly(n for n, there in self.names.items() if any(test(there) for test in tests))
        return presets

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return self.family.notes(self._renamed(shapes))

    def _renamed(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        return {self.names[name]: shape for name, shape in shapes.items()}
