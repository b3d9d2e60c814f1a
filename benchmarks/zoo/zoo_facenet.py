"""facenet-pytorch: the network of faces, and the three that find them."""

from __future__ import annotations

from pathlib import Path

import torch
import without_operators  # noqa: F401 - before torchvision
from architecture import Architecture
from facenet_pytorch import InceptionResnetV1
from facenet_pytorch.models import mtcnn
from torch import nn


def _finder(name: str) -> nn.Module:
    """One of the networks of MTCNN; the file of weights that its class asks for is not read."""
    return getattr(mtcnn, name)(pretrained=False)


ARCHITECTURES = {
    "InceptionResnetV1": Architecture(lambda: InceptionResnetV1(pretrained=None, classify=False), (3, 160, 160)),
    "InceptionResnetV1, classes": Architecture(
        lambda: InceptionResnetV1(pretrained=None, classify=True, num_classes=10), (3, 160, 160)
    ),
    "PNet": Architecture(lambda: _finder("PNet"), (3, 48, 48)),
    "RNet": Architecture(lambda: _finder("RNet"), (3, 24, 24)),
    "ONet": Architecture(lambda: _finder("ONet"), (3, 48, 48)),
}
