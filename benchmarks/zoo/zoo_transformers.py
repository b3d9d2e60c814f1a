"""transformers: encoders of images, and classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
import transformers.modeling_utils  # noqa: F401 - once, not in each process
from architecture import Architecture, first_tensor
from torch import Tensor, nn

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
"""A narrow encoder of two layers."""


def network(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """A function that makes a network from the names of two classes and the options of its config."""
    return lambda: getattr(tf, model)(getattr(tf, config)(**options))


def pixels(image: Tensor) -> dict[str, Any]:
    """The image by its name."""
    return {"pixel_values": image}


def first_feature_map(result: Any) -> Tensor:
    """The last feature map of a backbone."""
    return result.feature_maps[-1]


def image_net(model: str, config: str, side: int, **options: Any) -> Architecture:
    """A network of images of three channels."""
    return Architecture(network(model, config, **options), (3, side, side), pixels)


ARCHITECTURES = {
    "ViT": image_net("ViTForImageClassification", "ViTConfig", 64, image_size=64, patch_size=8, **SMALL),
    "ViT, hidden states": image_net("ViTModel", "ViTConfig", 64, image_size=64, patch_size=8, **SMALL),
    "DeiT": image_net("DeiTForImageClassification", "DeiTConfig", 64, image_size=64, patch_size=8, **SMALL),
    "DeiT, distilled": image_net("DeiTForImageClassificationWithTeacher", "DeiTConfig", 64, image_size=64, patch_size=8, **SMALL),
    "ViT-MSN": image_net("ViTMSNForImageClassification", "ViTMSNConfig", 64, image_size=64, patch_size=8, **SMALL),
    "I-JEPA": image_net("IJepaForImageClassification", "IJepaConfig", 64, image_size=64, patch_size=8, **SMALL),
    "ViT-MAE encoder": image_net("ViTMAEModel", "ViTMAEConfig", 64, image_size=64, patch_size=8, mask_ratio=0.0, **SMALL),
    "ViTDet": Architecture(
        network("VitDetBackbone", "VitDetConfig", image_size=64, pretrain_image_size=64, patch_size=8,
                hidden_size=32, num_hidden_layers=2, num_attention_heads=2, window_block_indices=[0], window_size=4),
        (3, 64, 64), pixels, first_feature_map,
    ),
    "ViTPose": image_net(
        "VitPoseForPoseEstimation", "VitPoseConfig", 64,
        backbone_config={"model_type": "vitpose_backbone", "image_size": [64, 64], "patch_size": [16, 16], "hidden_size": 32,
                         "num_hidden_layers": 2, "num_attention_heads": 2, "out_indices": [2]},
        use_simple_decoder=False,
    ),
    "BEiT": image_net("BeitForImageClassification", "BeitConfig", 64, image_size=64, patch_size=8, use_relative_position_bias=True, layer_scale_init_value=1.0, **SMALL),
    "BEiT, absolute positions": image_net("BeitModel", "BeitConfig", 64, image_size=64, patch_size=8, use_absolute_position_embeddings=True, layer_scale_init_value=1.0, **SMALL),
    "Data2Vec vision": image_net("Data2VecVisionForImageClassification", "Data2VecVisionConfig", 64, image_size=64, patch_size=8, use_shared_relative_position_bias=True, **SMALL),
    "DINOv2": image_net("Dinov2ForImageClassification", "Dinov2Config", 56, image_size=56, patch_size=14, layerscale_value=1.0, mlp_ratio=2, **{k: SMALL[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}),
    "DINOv2, run below its positions": image_net("Dinov2Model", "Dinov2Config", 56, image_size=112, patch_size=14, layerscale_value=1.0, mlp_ratio=2, **{k: SMALL[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}),
    "DINOv2 with registers": image_net("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", 56, image_size=56, patch_size=14, layerscale_value=1.0, mlp_ratio=2, **{k: SMALL[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}),
    "DINOv3 ViT": image_net("DINOv3ViTModel", "DINOv3ViTConfig", 64, image_size=64, patch_size=16, layerscale_value=1.0, **SMALL),
    "DINOv3 ConvNeXt": image_net("DINOv3ConvNextModel", "DINOv3ConvNextConfig", 128, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "Swin": image_net("SwinForImageClassification", "SwinConfig", 64, image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4),
    "Swin v2": image_net("Swinv2ForImageClassification", "Swinv2Config", 64, image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4),
    "Swin2SR": image_net("Swin2SRForImageSuperResolution", "Swin2SRConfig", 32, image_size=32, embed_dim=24, depths=[2, 2], num_heads=[2, 2], window_size=4, upscale=2, upsampler="pixelshuffledirect"),
    "Swin2SR, nearest and convolution": image_net("Swin2SRForImageSuperResolution", "Swin2SRConfig", 32, image_size=32, embed_dim=24, depths=[2, 2], num_heads=[2, 2], window_size=4, upscale=4, upsampler="nearest+conv"),
    "PVT": image_net("PvtForImageClassification", "PvtConfig", 64, image_size=64, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], mlp_ratios=[2, 2, 2, 2]),
    "PVT v2": image_net("PvtV2ForImageClassification", "PvtV2Config", 64, image_size=64, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4], mlp_ratios=[2, 2, 2, 2]),
    "CvT": image_net("CvtForImageClassification", "CvtConfig", 64, embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 2, 3]),
    "ConvNeXt": image_net("ConvNextForImageClassification", "ConvNextConfig", 128, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], layer_scale_init_value=1.0),
    "ConvNeXt V2": image_net("ConvNextV2ForImageClassification", "ConvNextV2Config", 128, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "ResNet": image_net("ResNetForImageClassification", "ResNetConfig", 128, embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
    "ResNet, basic blocks": image_net("ResNetForImageClassification", "ResNetConfig", 128, embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic"),
    "RegNet": image_net("RegNetForImageClassification", "RegNetConfig", 128, embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], groups_width=8),
    "BiT": image_net("BitForImageClassification", "BitConfig", 128, embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], num_groups=8),
    "BiT, 'SAME' padding": image_net("BitForImageClassification", "BitConfig", 128, embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], num_groups=8, global_padding="same"),
    "MobileNetV1": image_net("MobileNetV1ForImageClassification", "MobileNetV1Config", 128, image_size=128, depth_multiplier=1.0),
    "MobileNetV2": image_net("MobileNetV2ForImageClassification", "MobileNetV2Config", 128, image_size=128, depth_multiplier=1.0),
    "EfficientNet": image_net("EfficientNetForImageClassification", "EfficientNetConfig", 128, image_size=128, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640),
    "MobileViT": image_net("MobileViTForImageClassification", "MobileViTConfig", 128, image_size=128, hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64]),
    "MobileViT v2": image_net("MobileViTV2ForImageClassification", "MobileViTV2Config", 128, image_size=128, width_multiplier=0.5, base_attn_unit_dims=[64, 96, 128]),
    "LeViT": image_net("LevitForImageClassification", "LevitConfig", 64, image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8, 8, 8]),
    "PoolFormer": image_net("PoolFormerForImageClassification", "PoolFormerConfig", 128, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_scale_init_value=1.0),
    "SwiftFormer": image_net("SwiftFormerForImageClassification", "SwiftFormerConfig", 128, depths=[1, 1, 1, 1], embed_dims=[16, 24, 32, 48], layer_scale_init_value=1.0),
    "FocalNet": image_net("FocalNetForImageClassification", "FocalNetConfig", 64, image_size=64, embed_dim=16, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128]),
    "HGNet v2": image_net("HGNetV2ForImageClassification", "HGNetV2Config", 128, embedding_size=16, hidden_sizes=[32, 64, 96, 128], stem_channels=[3, 8, 16], stage_in_channels=[16, 32, 64, 96], stage_mid_channels=[8, 16, 24, 32], stage_out_channels=[32, 64, 96, 128], stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[2, 2, 2, 2]),
    "Hiera": image_net("HieraForImageClassification", "HieraConfig", 64, image_size=[64, 64], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    "TextNet": image_net("TextNetForImageClassification", "TextNetConfig", 128),
    "Perceiver, learned positions": image_net("PerceiverForImageClassificationLearned", "PerceiverConfig", 32, image_size=32, num_latents=8, d_latents=32, num_blocks=1, num_self_attends_per_block=1, num_self_attention_heads=2, num_cross_attention_heads=1),
    "Perceiver, convolutional": image_net("PerceiverForImageClassificationConvProcessing", "PerceiverConfig", 64, num_latents=8, d_latents=32, num_blocks=1, num_self_attends_per_block=1, num_self_attention_heads=2, num_cross_attention_heads=1),
    "CLIP vision": image_net("CLIPVisionModelWithProjection", "CLIPVisionConfig", 64, image_size=64, patch_size=8, projection_dim=32, **SMALL),
    "SigLIP vision": image_net("SiglipVisionModel", "SiglipVisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "ChineseCLIP vision": image_net("ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "BLIP vision": image_net("BlipVisionModel", "BlipVisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "InstructBLIP vision": image_net("InstructBlipVisionModel", "InstructBlipVisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "ALIGN vision": image_net("AlignVisionModel", "AlignVisionConfig", 128, image_size=128, width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640),
    "AltCLIP vision": image_net("AltCLIPVisionModel", "AltCLIPVisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "GroupViT vision": image_net("GroupViTVisionModel", "GroupViTVisionConfig", 64, image_size=64, patch_size=8, hidden_size=32, intermediate_size=64, depths=[2, 1, 1], num_group_tokens=[8, 4, 0], num_output_groups=[8, 4, 0], num_attention_heads=2),
    "OWL-ViT vision": image_net("OwlViTVisionModel", "OwlViTVisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "X-CLIP vision": Architecture(
        network("XCLIPVisionModel", "XCLIPVisionConfig", image_size=64, patch_size=8, num_frames=2, mit_hidden_size=32, **SMALL),
        (3, 64, 64), lambda image: {"pixel_values": image.repeat_interleave(2, 0)},
    ),
    "AIMv2 vision": image_net("Aimv2VisionModel", "Aimv2VisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "InternVL vision": image_net("InternVLVisionModel", "InternVLVisionConfig", 64, image_size=[64, 64], patch_size=[8, 8], **SMALL),
    "Idefics3 vision": image_net("Idefics3VisionTransformer", "Idefics3VisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "Pixtral vision": Architecture(  # two images are one row of tokens
        network("PixtralVisionModel", "PixtralVisionConfig", image_size=64, patch_size=8, **SMALL), (3, 64, 64), pixels, grid=(16, 8)
    ),
    "MLCD vision": image_net("MLCDVisionModel", "MLCDVisionConfig", 64, image_size=64, patch_size=8, **SMALL),
    "Janus VQ": Architecture(
        network("JanusVQVAE", "JanusVQVAEConfig", base_channels=32, channel_multiplier=[1, 2], num_res_blocks=1, embed_dim=8, num_embeddings=64, latent_channels=16, num_patches=16, out_channels=3),
        (3, 32, 32), pixels,
    ),
    "VideoMAE": Architecture(
        network("VideoMAEForVideoClassification", "VideoMAEConfig", image_size=64, patch_size=8, num_frames=4, tubelet_size=2, **SMALL),
        (4, 3, 64, 64), pixels, scale=(1, 2, 2),
    ),
    "TimeSformer": Architecture(
        network("TimesformerForVideoClassification", "TimesformerConfig", image_size=64, patch_size=8, num_frames=2, **SMALL),
        (2, 3, 64, 64), pixels, scale=(1, 2, 2),
    ),
    "ViViT": Architecture(
        network("VivitForVideoClassification", "VivitConfig", image_size=64, num_frames=4, tubelet_size=[2, 8, 8], **SMALL),
        (4, 3, 64, 64), pixels, scale=(1, 2, 2),
    ),
    "V-JEPA 2": Architecture(
        network("VJEPA2Model", "VJEPA2Config", crop_size=64, patch_size=8, frames_per_clip=4, tubelet_size=2, hidden_size=48, num_attention_heads=2, num_hidden_layers=2, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1, mlp_ratio=2),
        (4, 3, 64, 64), lambda image: {"pixel_values_videos": image, "skip_predictor": True}, scale=(1, 2, 2),
    ),
    "LayoutLMv3 vision": Architecture(
        network("LayoutLMv3Model", "LayoutLMv3Config", input_size=64, patch_size=16, vocab_size=32, max_position_embeddings=16, max_2d_position_embeddings=64, coordinate_size=8, shape_size=8, **SMALL),
        (3, 64, 64), pixels,
    ),
    "ViLT": Architecture(
        network("ViltModel", "ViltConfig", image_size=64, patch_size=16, vocab_size=32, max_position_embeddings=16, **SMALL),
        (3, 64, 64), lambda image: {"input_ids": torch.arange(4).repeat(len(image), 1), "pixel_values": image},
    ),
}
