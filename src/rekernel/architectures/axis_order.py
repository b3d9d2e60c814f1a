"""How each framework stores weights: the order of a kernel's axes, of a matrix's, and of a flattened grid.

Knows shapes and names; no file, family or scale. PyTorch's order is the one in which families know their layers.
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

    name : as in a file's `format` metadata
    conv : a 2-D convolution's axes; 1-D and 3-D ones follow
    linear : 'OI' or 'IO'
    order : in which a grid is flattened, 'channels-first' or 'channels-last'
    """

    name: str
    conv: str
    linear: str
    order: str

    def of(self, ndim: int) -> str | None:
        """The axes of a weight with so many of them; None where no convolution or linear layer has that many.

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
    """The conventions of a file.

    Parameters
    ----------
    metadata : of the file
        Its `format`, where it names a framework: 'flax', 'jax', 'keras', 'tf', 'mlx'.
    asked : str, optional
        A layout that was asked for every tensor; it wins. 'HWIO' means Flax's conventions, 'OHWI' MLX's.

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
    """A weight's shape in PyTorch's order of axes.

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
    """A tensor's name as PyTorch's module of the same layers would have it.

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
