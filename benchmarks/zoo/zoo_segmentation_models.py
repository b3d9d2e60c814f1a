"""segmentation-models-pytorch: every decoder, behind encoders of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import without_operators  # noqa: F401 - torchvision comes with timm
import segmentation_models_pytorch as smp
from architecture import Architecture
from torch import nn

SIDE = 64
DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
            "Segformer")  # fmt: skip
ENCODERS = ("mobilenet_v2", "efficientnet-b0", "timm-regnetx_002", "densenet121", "vgg11_bn", "resnext50_32x4d",
            "se_resnet50", "mit_b0", "mobileone_s0", "dpn68", "xception", "inceptionv4", "timm-skresnet18",
            "timm-resnest14d", "timm-res2net50_48w_2s", "tu-convnext_atto", "tu-hrnet_w18_small")  # fmt: skip
SIDES = {"DPT": 64, "PSPNet": 96, "PAN": 128, "DeepLabV3": 64, "DeepLabV3Plus": 64}


def _network(decoder: str, encoder: str, **more: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(smp, decoder)(encoder_name=encoder, encoder_weights=None, classes=3, **more)


ARCHITECTURES = {
    f"{decoder}, resnet18": Architecture(_network(decoder, "resnet18"), (3, *(SIDES.get(decoder, SIDE),) * 2))
    for decoder in DECODERS
}
ARCHITECTURES |= {
    f"Unet, {encoder}": Architecture(_network("Unet", encoder), (3, SIDE, SIDE)) for encoder in ENCODERS
}
ARCHITECTURES["DPT, vit_tiny_patch16"] = Architecture(
    _network("DPT", "tu-vit_tiny_patch16_224", encoder_depth=2, encoder_output_indices=[0, 1], img_size=64), (3, 64, 64)
)
ARCHITECTURES["Unet, resnet18, transposed"] = Architecture(
    _network("Unet", "resnet18", decoder_interpolation="bilinear"), (3, SIDE, SIDE)
)
ARCHITECTURES["Unet, resnet18, scse"] = Architecture(
    _network("Unet", "resnet18", decoder_attention_type="scse"), (3, SIDE, SIDE)
)
