"""How each framework stores weights: the order of the axes of a kernel, of a matrix, and of a flattened grid.

Scope: shapes and names. Not here: files (see `checkpoint`) and families (see `architectures.registry`). Families
describe their layers in PyTorch's order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]

_SPATIAL = "DHW"


@dataclass(frozen=True)
class Layout:
    """The conventions of one framework.

    name : name of the framework in the `format` metadata of a file
    conv : axes of a 2-D convolution's weight; the axes of 1-D and 3-D convolutions follow from them
    linear : axes of a linear layer's weight, 'OI' or 'IO'
    order : order of a flattened grid, 'channels-first' or 'channels-last'
    """

    name: str
    conv: str
    linear: str
    order: str

    def of(self, ndim: int) -> str | None:
        """Return the axes of a weight with `ndim` axes; None if no convolution or linear layer has `ndim` axes.

        Examples
        --------
        >>> FLAX.of(3), FLAX.of(5), MLX.of(5), PYTORCH.of(2), FLAX.of(1) is None
        ('WIO', 'DHWIO', 'ODHWI', 'OI', True)
        """
        if ndim == 2:
            return self.linear
        return self.conv.replace("HW", _SPATIAL[5 - ndim :]) if 3 <= ndim <= 5 else None


PYTORCH = Layout("pt", "OIHW", "OI", "channels-first")
FLAX = Layout("flax", "HWIO", "IO", "channels-last")
KERAS = Layout("keras", "HWIO", "IO", "channels-last")
MLX = Layout("mlx", "OHWI", "OI", "channels-last")

_BY_FORMAT = {"flax": FLAX, "jax": FLAX, "keras": KERAS, "tf": KERAS, "tensorflow": KERAS, "mlx": MLX}


def layout_of(metadata: Mapping[str, str], asked: str | None = None) -> Layout:
    """Return the conventions of a file.

    Parameters
    ----------
    metadata : mapping
        Metadata of the file. The entry `format` may name a framework: 'flax', 'jax', 'keras', 'tf', 'mlx'.
    asked : str, optional
        Layout that the user gave for every tensor. This layout overrides the metadata: 'HWIO' selects Flax's
        conventions, 'OHWI' selects MLX's.

    Examples
    --------
    >>> layout_of({"format": "mlx"}).conv, layout_of({"format": "pt"}, "HWIO").linear, layout_of({}).name
    ('OHWI', 'IO', 'pt')
    """
    if asked is not None:
        axes = asked.replace("D", "").replace("H", "")
        return {"WIO": FLAX, "OWI": MLX}.get(axes, PYTORCH)
    return _BY_FORMAT.get(metadata.get("format", "").lower(), PYTORCH)


def pytorch_shape(shape: Shape, axes: str | None) -> Shape:
    """Return the shape of a weight in PyTorch's order of axes.

    Examples
    --------
    >>> pytorch_shape((3, 5, 16, 32), "HWIO"), pytorch_shape((7,), None)
    ((32, 16, 3, 5), (7,))
    """
    if axes is None or len(axes) != len(shape):
        return shape
    spatial = (n for n, letter in zip(shape, axes, strict=True) if letter not in "OI")
    return (shape[axes.index("O")], shape[axes.index("I")], *spatial)


def pytorch_name(name: str) -> str:
    """Return the name that the tensor has in a PyTorch module with the same layers.

    Examples
    --------
    >>> pytorch_name("down_blocks_0/resnets_1/conv1/kernel")
    'down_blocks.0.resnets.1.conv1.weight'
    >>> pytorch_name("params.embeddings.patch_embeddings.projection.kernel:0")
    'embeddings.patch_embeddings.projection.weight'
    """
    name = name.removesuffix(":0").replace("/", ".").removeprefix("params.")
    name = re.sub(r"\.kernel$", ".weight", name)
    return re.sub(r"_(\d+)(?=\.|$)", r".\1", name)
