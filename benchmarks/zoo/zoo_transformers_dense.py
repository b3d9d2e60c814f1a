"""transformers: networks that segment, find objects, estimate depth or draw."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from architecture import Architecture
from torch import Tensor, nn
from zoo_transformers import SMALL, image_net, network, pixels

SWIN = {"model_type": "swin", "image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2],
        "window_size": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"]}  # fmt: skip
RESNET = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
          "layer_type": "basic", "out_features": ["stage4"]}  # fmt: skip
DINO = {"model_type": "dinov2", "image_size": 56, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
        "mlp_ratio": 2, "layerscale_value": 1.0, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}  # fmt: skip
DETR = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 8, "use_timm_backbone": False,
        "use_pretrained_backbone": False, "backbone": None}  # fmt: skip


def _masks(result: Any) -> Tensor:
    return result.masks_queries_logits


def _mask_former(name: str, **options: Any) -> Architecture:
    return Architecture(network(f"{name}ForUniversalSegmentation", f"{name}Config", **options), (3, 64, 64), pixels, _masks)


def _clipseg(image: Tensor) -> dict[str, Any]:
    return {"pixel_values": image, "input_ids": torch.tensor([[0, 3, 4, 2]]).repeat(len(image), 1)}


def _prompted(image: Tensor) -> dict[str, Any]:
    return {"pixel_values": image, "input_points": torch.full((len(image), 1, 1, 2), 16.0)}


def _sam_vision() -> nn.Module:
    return tf.models.sam.modeling_sam.SamVisionEncoder(
        tf.SamVisionConfig(image_size=64, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                           output_channels=16, window_size=4, global_attn_indexes=[1], mlp_dim=32)
    )  # fmt: skip


ARCHITECTURES = {
    "SegFormer": image_net("SegformerForSemanticSegmentation", "SegformerConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
                           num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=32),
    "SegFormer, classes": image_net("SegformerForImageClassification", "SegformerConfig", 64, hidden_sizes=[8, 16, 24, 32],
                                    depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2]),
    "BEiT, segmentation": image_net("BeitForSemanticSegmentation", "BeitConfig", 64, image_size=64, patch_size=16, out_indices=[1, 2, 3, 4],
                                    use_auxiliary_head=False, pool_scales=[1, 2], **{**SMALL, "num_hidden_layers": 4}),
    "MobileNetV2, segmentation": image_net("MobileNetV2ForSemanticSegmentation", "MobileNetV2Config", 128, image_size=128, depth_multiplier=1.0,
                                           output_stride=16),
    "MobileViT, segmentation": image_net("MobileViTForSemanticSegmentation", "MobileViTConfig", 128, image_size=128,
                                         hidden_sizes=[24, 32, 40], neck_hidden_sizes=[8, 16, 24, 32, 40, 64, 64],
                                         aspp_out_channels=16, atrous_rates=[2, 3, 4]),
    "MobileViT v2, segmentation": image_net("MobileViTV2ForSemanticSegmentation", "MobileViTV2Config", 128, image_size=128,
                                            width_multiplier=0.5, base_attn_unit_dims=[64, 96, 128], aspp_out_channels=16, atrous_rates=[2, 3, 4]),
    "UperNet, Swin": image_net("UperNetForSemanticSegmentation", "UperNetConfig", 64, backbone_config=SWIN, hidden_size=16,
                               pool_scales=[1, 2], use_auxiliary_head=False),
    "UperNet, ResNet": image_net("UperNetForSemanticSegmentation", "UperNetConfig", 128,
                                 backbone_config={**RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]}, hidden_size=16,
                                 pool_scales=[1, 2], use_auxiliary_head=False),
    "MaskFormer": Architecture(
        network("MaskFormerForInstanceSegmentation", "MaskFormerConfig", fpn_feature_size=32, mask_feature_size=32, backbone_config=SWIN,
                decoder_config={"model_type": "detr", **{k: DETR[k] for k in ("d_model", "decoder_layers", "decoder_ffn_dim",
                                "decoder_attention_heads", "num_queries")}}), (3, 64, 64), pixels, _masks,
    ),
    "Mask2Former": _mask_former("Mask2Former", backbone_config=SWIN, feature_size=32, mask_feature_size=32, hidden_dim=32,
                                encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
                                dim_feedforward=32, num_queries=8),
    "EoMT": _mask_former("Eomt", image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2,
                         num_blocks=1, num_queries=8, num_register_tokens=0, layerscale_value=1.0),
    "DETR": image_net("DetrForObjectDetection", "DetrConfig", 128, backbone_config=RESNET, **DETR),
    "Conditional DETR": image_net("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", 128, backbone_config=RESNET, **DETR),
    "DAB-DETR": image_net("DabDetrForObjectDetection", "DabDetrConfig", 128, backbone_config=RESNET,
                          **{("hidden_size" if k == "d_model" else k): v for k, v in DETR.items()}),
    "Deformable DETR": image_net("DeformableDetrForObjectDetection", "DeformableDetrConfig", 128,
                                 backbone_config={**RESNET, "out_features": ["stage2", "stage3", "stage4"]}, num_feature_levels=4, **{**DETR, "decoder_layers": 2}),
    "Table Transformer": image_net("TableTransformerForObjectDetection", "TableTransformerConfig", 128, backbone_config=RESNET, **DETR),
    "RT-DETR": image_net(
        "RTDetrForObjectDetection", "RTDetrConfig", 128,
        backbone_config={"model_type": "rt_detr_resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
                         "layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]},
        encoder_hidden_dim=32, encoder_in_channels=[32, 48, 64], encoder_ffn_dim=32, encoder_attention_heads=2, d_model=32,
        decoder_in_channels=[32, 32, 32], decoder_ffn_dim=32, decoder_attention_heads=2, decoder_layers=1, num_queries=8, num_denoising=0,
    ),
    "YOLOS": image_net("YolosForObjectDetection", "YolosConfig", 64, image_size=[64, 64], patch_size=8, num_detection_tokens=4,
                       use_mid_position_embeddings=False, **SMALL),
    "DPT": image_net("DPTForDepthEstimation", "DPTConfig", 64, image_size=64, patch_size=8, backbone_out_indices=[0, 1, 2, 3],
                     neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16, **{**SMALL, "num_hidden_layers": 4}),
    "DPT, segmentation": image_net("DPTForSemanticSegmentation", "DPTConfig", 64, image_size=64, patch_size=8, backbone_out_indices=[0, 1, 2, 3],
                                   neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16, use_auxiliary_head=False,
                                   **{**SMALL, "num_hidden_layers": 4}),
    "Depth Anything": image_net("DepthAnythingForDepthEstimation", "DepthAnythingConfig", 56, backbone_config=DINO, patch_size=14,
                                reassemble_hidden_size=32, neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16, head_hidden_size=16),
    "GLPN": image_net("GLPNForDepthEstimation", "GLPNConfig", 64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
                      num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16),
    "ZoeDepth": image_net(
        "ZoeDepthForDepthEstimation", "ZoeDepthConfig", 64,
        backbone_config={"model_type": "beit", "image_size": 64, "patch_size": 8, "out_indices": [1, 2, 3, 4],
                         "reshape_hidden_states": False, **{**SMALL, "num_hidden_layers": 4}},
        backbone_hidden_size=32, neck_hidden_sizes=[8, 16, 24, 32], fusion_hidden_size=16, bottleneck_features=16, bin_embedding_dim=16,
        num_attractors=[4, 2, 1, 1], num_patch_transformer_layers=1, patch_transformer_hidden_size=16, patch_transformer_num_attention_heads=2,
        patch_transformer_intermediate_size=32,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    ),
    "CLIPSeg": Architecture(
        lambda: tf.CLIPSegForImageSegmentation(tf.CLIPSegConfig(
            text_config={**SMALL, "vocab_size": 8, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
            vision_config={**SMALL, "image_size": 64, "patch_size": 8, "num_hidden_layers": 3}, projection_dim=32, extract_layers=[1, 2],
            reduce_dim=16, decoder_num_attention_heads=2, decoder_intermediate_size=32, conditional_layer=0)),
        (3, 64, 64), _clipseg,
    ),
    "SAM, vision encoder": Architecture(_sam_vision, (3, 64, 64), pixels),
    "SAM": Architecture(
        lambda: tf.SamModel(tf.SamConfig(
            vision_config={"image_size": 64, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                           "output_channels": 16, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32, "num_pos_feats": 8},
            prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
            mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16})),
        (3, 64, 64), _prompted, lambda r: r.pred_masks,
    ),
    "Donut Swin": image_net("DonutSwinModel", "DonutSwinConfig", 64, image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
    "MaskFormer Swin": image_net("MaskFormerSwinModel", "MaskFormerSwinConfig", 64, image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
    "PP-LCNet": image_net("PPLCNetForImageClassification", "PPLCNetConfig", 128),
}
