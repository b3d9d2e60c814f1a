"""diffusers: denoisers, of convolutions and of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as df
import torch
from architecture import Architecture
from torch import Tensor, nn

TEXT = 16  # features of a text, of three tokens
NARROW = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 8, "cross_attention_dim": TEXT,
}  # fmt: skip
TOKENS = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
LATENT = (4, 32, 32)
FILM = (4, 2, 32, 32)
FLAT_TIME = (1, 2, 2)


def network(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A function that makes a network from the name of its class and its options."""
    return lambda: getattr(df, name)(**options)


def time(image: Tensor) -> Tensor:
    """A step of the schedule for each image."""
    return torch.full((len(image),), 10)


def text(image: Tensor, features: int = TEXT) -> Tensor:
    """The same three words for every image."""
    return torch.linspace(-1, 1, 3 * features).reshape(1, 3, features).repeat(len(image), 1, 1)


def timed(image: Tensor) -> tuple[Any, ...]:
    """Image and time."""
    return image, time(image)


def told(image: Tensor) -> tuple[Any, ...]:
    """Image, time and text."""
    return image, time(image), text(image)


def by_name(image: Tensor, **more: Any) -> dict[str, Any]:
    """The same by name."""
    return {"hidden_states": image, "encoder_hidden_states": text(image), "timestep": time(image), **more}


def _sdxl(image: Tensor) -> dict[str, Any]:
    n = len(image)
    return {"sample": image, "timestep": time(image), "encoder_hidden_states": text(image),
            "added_cond_kwargs": {"text_embeds": torch.zeros(n, 8), "time_ids": torch.zeros(n, 6)}}  # fmt: skip


def _control(image: Tensor) -> tuple[Any, ...]:
    hint = nn.functional.interpolate(image[:, :3], scale_factor=2)
    return image, time(image), text(image), hint


def _frames(image: Tensor) -> tuple[Any, ...]:
    return image, time(image), text(image).repeat_interleave(image.shape[2], 0)


def _stable_video(image: Tensor) -> tuple[Any, ...]:
    return image, time(image), text(image), torch.zeros(len(image), 3)


def _pixart(image: Tensor) -> dict[str, Any]:
    return by_name(image, added_cond_kwargs={"resolution": None, "aspect_ratio": None})


def _cogview(image: Tensor) -> dict[str, Any]:
    size = torch.full((len(image), 2), 256)
    return by_name(image, original_size=size, target_size=size, crop_coords=torch.zeros(len(image), 2))


def _masked(image: Tensor) -> dict[str, Any]:
    return by_name(image, encoder_attention_mask=torch.ones(len(image), 3, dtype=torch.bool))


ARCHITECTURES = {
    "UNet2DModel": Architecture(
        network("UNet2DModel", sample_size=32, in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"), **NARROW), LATENT, timed,
    ),
    "UNet2DModel, resnet samplers": Architecture(
        network("UNet2DModel", sample_size=32, in_channels=4, out_channels=4, down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D"), **NARROW), LATENT, timed,
    ),
    "UNet2DModel, NCSN++": Architecture(
        network("UNet2DModel", sample_size=32, in_channels=3, out_channels=3, down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
                up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"), time_embedding_type="fourier", layers_per_block=1,
                block_out_channels=(32, 64), norm_num_groups=8), (3, 32, 32), timed,
    ),
    "UNet2DConditionModel, SD 1.5": Architecture(
        network("UNet2DConditionModel", sample_size=32, **NARROW, **CROSS), LATENT, told
    ),
    "UNet2DConditionModel, SDXL": Architecture(
        network("UNet2DConditionModel", sample_size=32, **NARROW, **{**CROSS, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}, transformer_layers_per_block=(1, 2),
                addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=32,
                use_linear_projection=True), LATENT, _sdxl,
    ),
    "UNet2DConditionModel, simple attention": Architecture(
        network("UNet2DConditionModel", sample_size=32, **NARROW, **{**CROSS,
                "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D")},
                mid_block_type="UNetMidBlock2DSimpleCrossAttn"), LATENT, told,
    ),
    "ControlNetModel": Architecture(
        network("ControlNetModel", in_channels=4, conditioning_embedding_out_channels=(8, 16),
                **NARROW, down_block_types=CROSS["down_block_types"], attention_head_dim=8, cross_attention_dim=TEXT),
        LATENT, _control,
    ),
    "UNet3DConditionModel": Architecture(
        network("UNet3DConditionModel", sample_size=32, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=TEXT, attention_head_dim=8, **NARROW),
        FILM, told, scale=FLAT_TIME,
    ),
    "UNetMotionModel": Architecture(
        network("UNetMotionModel", sample_size=32, down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
                up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), cross_attention_dim=TEXT, num_attention_heads=2,
                motion_num_attention_heads=2, motion_max_seq_length=4, **NARROW),
        FILM, _frames, scale=FLAT_TIME,
    ),
    "UNetSpatioTemporalConditionModel": Architecture(
        network("UNetSpatioTemporalConditionModel", sample_size=32, in_channels=4,
                down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=TEXT,
                num_attention_heads=2, addition_time_embed_dim=4, projection_class_embeddings_input_dim=12, num_frames=2,
                block_out_channels=(32, 64), layers_per_block=1),
        (2, 4, 32, 32), _stable_video, scale=FLAT_TIME,
    ),
    "Kandinsky3UNet": Architecture(
        network("Kandinsky3UNet", time_embedding_dim=32, groups=4, attention_head_dim=8, layers_per_block=3,
                block_out_channels=(16, 16, 32, 32), cross_attention_dim=TEXT, encoder_hid_dim=TEXT), LATENT,
        lambda image: (image, time(image), text(image), torch.ones(len(image), 3)),
    ),
    "UNet1DModel": Architecture(
        network("UNet1DModel", sample_size=256, in_channels=4, out_channels=4, extra_in_channels=32, time_embedding_type="fourier",
                down_block_types=("DownBlock1DNoSkip", "DownBlock1D"), up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
                block_out_channels=(16, 32)), (4, 256), timed,
    ),
    "UNet1DModel, attention": Architecture(
        network("UNet1DModel", sample_size=256, in_channels=4, out_channels=4, extra_in_channels=64, time_embedding_type="fourier",
                down_block_types=("DownBlock1DNoSkip", "AttnDownBlock1D"), up_block_types=("AttnUpBlock1D", "UpBlock1DNoSkip"),
                block_out_channels=(32, 32)), (4, 256), timed,
    ),
    "StableCascadeUNet": Architecture(
        network("StableCascadeUNet", in_channels=4, out_channels=4, timestep_ratio_embedding_dim=8, conditioning_dim=TEXT,
                block_out_channels=(16, 32), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1),
                clip_text_pooled_in_channels=TEXT, clip_seq=1, timestep_conditioning_type=("sca",)),
        LATENT, lambda image: {"sample": image, "timestep_ratio": time(image) / 1000, "clip_text_pooled": text(image)[:, :1]},
    ),
    "DiTTransformer2DModel": Architecture(
        network("DiTTransformer2DModel", sample_size=32, norm_num_groups=4, num_embeds_ada_norm=20, **TOKENS), LATENT,
        lambda image: (image, time(image), torch.ones(len(image), dtype=torch.long)),
    ),
    "PixArtTransformer2DModel": Architecture(
        network("PixArtTransformer2DModel", sample_size=32, norm_num_groups=4, cross_attention_dim=32, caption_channels=TEXT,
                use_additional_conditions=False, **TOKENS), LATENT, _pixart,
    ),
    "Transformer2DModel, features": Architecture(
        network("Transformer2DModel", in_channels=32, norm_num_groups=4, cross_attention_dim=TEXT, **TOKENS), (32, 16, 16),
        lambda image: {"hidden_states": image, "encoder_hidden_states": text(image)},
    ),
    "SD3Transformer2DModel": Architecture(
        network("SD3Transformer2DModel", sample_size=32, in_channels=4, out_channels=4, joint_attention_dim=TEXT,
                caption_projection_dim=32, pooled_projection_dim=8, pos_embed_max_size=32, **TOKENS), LATENT,
        lambda image: by_name(image, pooled_projections=torch.zeros(len(image), 8)),
    ),
    "AuraFlowTransformer2DModel": Architecture(
        network("AuraFlowTransformer2DModel", sample_size=32, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=16,
                num_attention_heads=2, joint_attention_dim=TEXT, caption_projection_dim=32, pos_embed_max_size=1024), LATENT, by_name,
    ),
    "SanaTransformer2DModel": Architecture(
        network("SanaTransformer2DModel", in_channels=4, out_channels=4, num_cross_attention_heads=2, cross_attention_head_dim=16,
                cross_attention_dim=32, caption_channels=TEXT, sample_size=32, **TOKENS), LATENT, by_name,
    ),
    "CogView3PlusTransformer2DModel": Architecture(
        network("CogView3PlusTransformer2DModel", in_channels=4, out_channels=4, text_embed_dim=TEXT, time_embed_dim=8,
                condition_dim=4, pos_embed_max_size=32, sample_size=32, **TOKENS), LATENT, _cogview,
    ),
    "Lumina2Transformer2DModel": Architecture(
        network("Lumina2Transformer2DModel", sample_size=32, in_channels=4, hidden_size=48, num_layers=1, num_refiner_layers=1,
                num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(8, 8, 8), axes_lens=(64, 64, 64), cap_feat_dim=TEXT),
        LATENT, _masked,
    ),
    "LatteTransformer3DModel": Architecture(
        network("LatteTransformer3DModel", in_channels=4, out_channels=4, cross_attention_dim=32, sample_size=32, patch_size=2,
                norm_type="ada_norm_single", norm_elementwise_affine=False, caption_channels=TEXT, video_length=2, **TOKENS),
        FILM, by_name, scale=FLAT_TIME,
    ),
    "CogVideoXTransformer3DModel": Architecture(
        network("CogVideoXTransformer3DModel", in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=TEXT, sample_width=32,
                sample_height=32, sample_frames=5, max_text_seq_length=3, **TOKENS), (2, 4, 32, 32), by_name, scale=FLAT_TIME,
    ),
    "WanTransformer3DModel": Architecture(
        network("WanTransformer3DModel", in_channels=4, out_channels=4, text_dim=TEXT, freq_dim=16, ffn_dim=32, **TOKENS),
        FILM, by_name, scale=FLAT_TIME,
    ),
    "MochiTransformer3DModel": Architecture(
        network("MochiTransformer3DModel", in_channels=4, pooled_projection_dim=16, text_embed_dim=TEXT, time_embed_dim=8,
                max_sequence_length=3, num_layers=2, attention_head_dim=16, num_attention_heads=2), FILM, _masked, scale=FLAT_TIME,
    ),
    "StableAudioDiTModel": Architecture(
        network("StableAudioDiTModel", sample_size=64, in_channels=8, out_channels=8, num_key_value_attention_heads=1,
                cross_attention_dim=TEXT, time_proj_dim=8, global_states_input_dim=16, cross_attention_input_dim=TEXT, **TOKENS),
        (8, 64), lambda image: by_name(image, global_hidden_states=torch.zeros(len(image), 1, 16)),
    ),
}
