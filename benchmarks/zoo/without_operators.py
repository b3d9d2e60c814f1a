"""Let torchvision be imported without its compiled operators.

They are built for a torch with CUDA and do not load into another. No network here calls one, but torchvision describes
two of them when it is imported, and torch refuses to describe what was never defined.
"""

from __future__ import annotations

import importlib
import sys

import torch

_KEPT: list[torch.library.Library] = []
"""A library forgets what it defined when nobody holds it."""


def import_torchvision() -> None:
    """Import torchvision; where its operators are missing, define those that it describes first."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _KEPT.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _KEPT[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
