"""torchvision: one or more networks of every family of classifiers, and those for segmentation."""

from __future__ import annotations

from collections.abc import Callable

import without_operators  # noqa: F401 - before torchvision
import torchvision.models as tv
from architecture import Architecture
from torch import nn

CLASSIFIERS = {  # pixels of the trained size
    "alexnet": 127, "convnext_tiny": 128, "densenet121": 128, "efficientnet_b0": 128, "efficientnet_v2_s": 128,
    "googlenet": 128, "inception_v3": 139, "maxvit_t": 128, "mnasnet0_5": 128, "mobilenet_v2": 128, "mobilenet_v3_small": 128,
    "mobilenet_v3_large": 128, "regnet_x_400mf": 128, "regnet_y_400mf": 128, "resnet18": 128, "resnet50": 128,
    "resnext50_32x4d": 128, "shufflenet_v2_x0_5": 128, "squeezenet1_0": 128, "squeezenet1_1": 128, "swin_t": 128,
    "swin_v2_t": 128, "vgg11": 128, "vgg11_bn": 128, "wide_resnet50_2": 128, "vit_b_16": 128,
}  # fmt: skip
DENSE = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
VIDEO = {"r3d_18": 64, "mc3_18": 64, "r2plus1d_18": 64, "s3d": 224, "swin3d_t": 64}
NARROW = {
    "vit_b_16": {"image_size": 128},
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "googlenet": {"init_weights": False, "aux_logits": False},
}


def _named(name: str, **more: object) -> Callable[[], nn.Module]:
    return lambda: tv.get_model(name, weights=None, **more)


def _maxvit() -> nn.Module:
    return tv.MaxVit((128, 128), 32, 4, [32, 32, 64, 64], [1, 1, 1, 1], 16, 0.0)


def _mvit() -> nn.Module:
    block = tv.video.mvit.MSBlockConfig
    setting = [
        block(1, 32, 32, (3, 3, 3), (3, 3, 3), (1, 1, 1), (1, 4, 4)),
        block(2, 32, 64, (3, 3, 3), (3, 3, 3), (1, 2, 2), (1, 2, 2)),
    ]
    return tv.video.MViT((64, 64), 16, setting, True, False, True, True)


def _vit() -> nn.Module:
    return tv.VisionTransformer(image_size=64, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


ARCHITECTURES = {
    name: Architecture(_named(name, **NARROW.get(name, {})), (3, size, size)) for name, size in CLASSIFIERS.items()
}
ARCHITECTURES["vit_b_16"] = Architecture(_vit, (3, 64, 64))
ARCHITECTURES["maxvit_t"] = Architecture(_maxvit, (3, 128, 128))
ARCHITECTURES |= {
    name: Architecture(_named(name, weights_backbone=None, num_classes=5), (3, 64, 64)) for name in DENSE
}
ARCHITECTURES |= {
    name: Architecture(_named(name), (3, 16, size, size), scale=(1, 2, 2)) for name, size in VIDEO.items()
}
ARCHITECTURES["mvit"] = Architecture(_mvit, (3, 16, 64, 64), scale=(1, 2, 2))
