"""timm: a small network of every family, with fewer layers and smaller pictures where the family can be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from architecture import Architecture
from torch import nn

SIDE = 128

CONVOLUTIONAL = (
    "eca_resnext26ts", "convmixer_768_32", "convnext_atto", "convnextv2_atto", "cs3darknet_focus_s", "csatv2",
    "cspnext_tiny", "cpubone_nano", "densenet121", "dla34", "dpn48b", "eca_nfnet_l0", "ecaresnet26t",
    "edgenext_xx_small", "efficientnet_b0", "efficientnet_lite0", "efficientvit_b0", "ese_vovnet19b_slim",
    "fasternet_t0", "fastvit_t8", "fbnetc_100", "gcresnet33ts", "gernet_s", "ghostnet_050", "hgnetv2_b0",
    "hrnet_w18_small", "iformer_t", "inception_next_atto", "inception_v3", "lambda_resnet26t", "lcnet_035",
    "lcnetv2_small", "legacy_seresnet18", "legacy_xception", "lowformer_b0", "mambaout_femto", "mixnet_s",
    "mnasnet_small", "mobilenetv1_100", "mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_035",
    "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050", "nasnetalarge", "nextvit_small", "nf_resnet26",
    "poolformer_s12", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "regnety_002", "regnetz_005", "repvgg_a0",
    "repvit_m0_9", "res2next50", "resnest14d", "resnet10t", "resnet18", "resnetblur50", "resnetv2_50d_evos",
    "resnetv2_50d_frn", "resnetv2_50x1_bit", "rexnet_100", "selecsls42", "seresnet50", "shvit_s1", "skresnet18",
    "starnet_s050", "swiftformer_xs", "tf_efficientnet_b0", "tf_mixnet_s", "tf_mobilenetv3_small_minimal_100",
    "tresnet_m", "vgg11_bn", "xception41", "caformer_s18", "efficientvim_m1", "test_resnet", "test_nfnet",
)  # fmt: skip

OTHER_SIDE = {"nasnetalarge": 139, "inception_v3": 139, "convmixer_768_32": 112, "legacy_xception": 135}  # fmt: skip

Told = tuple[int, dict[str, Any]]
ONE_SIZE: dict[str, Told] = {
    "aimv2_large_patch14_224": (56, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "beit_base_patch16_224": (64, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "botnet26t_256": (128, {"img_size": 128}),
    "halonet26t": (256, {}),
    "cait_xxs24_224": (64, {"depth": 2}),
    "coat_lite_tiny": (64, {}),
    "coatnet_nano_rw_224": (224, {}),
    "coatnext_nano_rw_224": (128, {}),
    "convit_tiny": (224, {}),
    "crossvit_tiny_240": (240, {}),
    "davit_tiny": (112, {"depths": (1, 1, 1, 1)}),
    "deit3_small_patch16_224": (64, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "deit_tiny_distilled_patch16_224": (64, {"depth": 2}),
    "deepseek_vit_412m": (56, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "efficientformer_l1": (224, {}),
    "efficientformerv2_s0": (128, {}),
    "efficientvit_m0": (224, {}),
    "eva02_tiny_patch14_224": (56, {"depth": 2}),
    "flexivit_small": (64, {"depth": 2}),
    "focalnet_tiny_srf": (64, {}),
    "gcvit_xxtiny": (224, {}),
    "gemma4_vit_167m": (64, {"depth": 2}),
    "gmixer_12_224": (64, {}),
    "gmlp_ti16_224": (64, {}),
    "hiera_tiny_224": (64, {"stages": (1, 1, 1, 1)}),
    "sam2_hiera_tiny": (128, {"stages": (1, 1, 1, 1), "global_att_blocks": ()}),
    "levit_128s": (128, {"img_size": 128}),
    "levit_conv_128s": (128, {"img_size": 128}),
    "maxvit_pico_rw_256": (128, {}),
    "mixer_s16_224": (64, {}),
    "mvitv2_tiny": (64, {}),
    "naflexvit_base_patch16_gap": (64, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "nest_tiny": (64, {}),
    "pit_ti_224": (64, {"depth": (1, 1, 1)}),
    "qwen3_vit_88m": (64, {"depth": 2}),
    "resmlp_12_224": (64, {}),
    "samvit_base_patch16": (64, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "sequencer2d_s": (64, {"layers": (1, 1, 1, 1)}),
    "swin_tiny_patch4_window7_224": (56, {"depths": (1, 1), "num_heads": (3, 6), "window_size": 7}),
    "swinv2_tiny_window8_256": (64, {"depths": (1, 1), "num_heads": (3, 6)}),
    "swinv2_cr_tiny_224": (56, {"depths": (1, 1), "num_heads": (3, 6), "window_size": 7}),
    "tiny_vit_5m_224": (224, {"depths": (1, 1, 1, 1)}),
    "tnt_s_patch16_224": (64, {"depth": 2}),
    "twins_pcpvt_small": (64, {"depths": (1, 1, 1, 1)}),
    "twins_svt_small": (224, {"depths": (1, 1, 1, 1)}),
    "visformer_tiny": (128, {}),
    "vit_base_r26_s32_224": (128, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "vit_tiny_patch16_224": (64, {"depth": 2}),
    "vit_base_patch16_siglip_224": (64, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "vit_base_patch16_clip_224": (64, {"depth": 2, "embed_dim": 64, "num_heads": 2}),
    "vit_small_patch14_reg4_dinov2": (56, {"depth": 2}),
    "vit_small_patch16_dinov3": (64, {"depth": 2}),
    "vit_relpos_small_patch16_224": (64, {"depth": 2}),
    "vitamin_small_224": (64, {}),
    "volo_d1_224": (64, {}),
    "xcit_nano_12_p8_224": (64, {"depth": 2}),
    "mobilenetv5_300m": (128, {}),
}
NO_SIZE = (
    "focalnet",
    "convit_tiny", "coatnet_", "botnet", "davit", "sam2_hiera", "tiny_vit", "levit", "efficientvit_m0",
    "mobilenetv5_300m", "gemma4_vit_167m", "naflexvit", "qwen3_vit_88m", "xcit", "sequencer2d_s", "halonet26t",
)  # fmt: skip
"""Beginnings of the names of networks that are not told their size when they are built."""


def _network(name: str, **more: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, **more)


def _told(name: str, side: int, more: dict[str, Any]) -> Architecture:
    size = {} if name.startswith(NO_SIZE) else {"img_size": side}
    return Architecture(_network(name, **{**size, **more}), (3, side, side))


ARCHITECTURES = {
    name: Architecture(_network(name), (3, *(OTHER_SIDE.get(name, SIDE),) * 2)) for name in CONVOLUTIONAL
} | {name: _told(name, side, more) for name, (side, more) in ONE_SIZE.items()}
