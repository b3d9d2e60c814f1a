"""Let torchvision be imported without its compiled operators.

They are built for a torch with CUDA and do not load into another. No network here calls one, but torchvision describes
two of them when it is imported, and torch refuses to describe what was never defined.
"""

from __future__ import annotations

import torch

try:
    _ours = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _ours.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except RuntimeError:  # they are there already
    pass
