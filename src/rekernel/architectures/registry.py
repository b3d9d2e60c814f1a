"""Architectures recognised from a checkpoint's keys: the strides that shapes cannot tell, and which layers to rescale.

Knows names and shapes of well-known layouts; no scale, method or file. To add a family, write a class with the four
members of `Family` and list it in `FAMILIES`, the specific before the general.
"""

from __future__ import annotations

from .base import Family, Shapes
from .diffusion import AutoencoderKL, DiffusersUNet, SingleFileDiffusion
from .vision import MLP, ConvNeXt, ResNet, ViT


def recognise(shapes: Shapes) -> Family | None:
    """The first family that recognises the keys.

    Examples
    --------
    >>> recognise({"fc.weight": (10, 3)}) is None
    True
    """
    return next((family for family in FAMILIES if family.recognises(shapes)), None)


FAMILIES: tuple[Family, ...] = (
    DiffusersUNet(),
    AutoencoderKL(),
    SingleFileDiffusion(),
    ViT(),
    ResNet(),
    ConvNeXt(),
    MLP(),
)
