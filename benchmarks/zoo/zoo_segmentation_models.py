"""segmentation-models-pytorch: every decoder, behind encoders of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
from architecture import Architecture
from torch import nn

SIDE = 128
DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
            "Segformer")  # fmt: skip
ENCODERS = ("mobilenet_v2", "efficientnet-b0", "timm-regnetx_002", "densenet121", "vgg11_bn",
            "timm-mobilenetv3_small_minimal_100", "mit_b0", "dpn68", "xception", "timm-skresnet18",
            "timm-resnest14d", "tu-convnext_atto", "tu-hrnet_w18_small")  # fmt: skip


def _network(decoder: str, encoder: str, **more: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(smp, decoder)(encoder_name=encoder, encoder_weights=None, classes=3, **more)


ARCHITECTURES = {
    f"{decoder}, resnet18": Architecture(_network(decoder, "resnet18"), (3, SIDE, SIDE)) for decoder in DECODERS
}
ARCHITECTURES |= {f"Unet, {encoder}": Architecture(_network("Unet", encoder), (3, SIDE, SIDE)) for encoder in ENCODERS}
ARCHITECTURES["DPT, vit_tiny_patch16"] = Architecture(
    _network(
        "DPT",
        "tu-vit_tiny_patch16_224",
        dynamic_img_size=True,
        decoder_fusion_channels=32,
        decoder_intermediate_channels=(32, 48, 64, 64),
    ),
    (3, SIDE, SIDE),
)
ARCHITECTURES["Unet, resnet18, bilinear"] = Architecture(
    _network("Unet", "resnet18", decoder_interpolation="bilinear"), (3, SIDE, SIDE)
)
ARCHITECTURES["Unet, resnet18, scse"] = Architecture(
    _network("Unet", "resnet18", decoder_attention_type="scse"), (3, SIDE, SIDE)
)
