"""diffusers: autoencoders of images, films and sounds, whole, and their halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as df
from architecture import Architecture
from torch import nn

PLAIN = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
NARROW = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
IMAGE = (3, 32, 32)
FILM = (3, 5, 32, 32)
FLAT_TIME = (1, 2, 2)


def _whole(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(df, name)(**options)


def _half(build: Callable[[], nn.Module], half: str) -> Callable[[], nn.Module]:
    return lambda: getattr(build(), half)


KL = _whole("AutoencoderKL", **PLAIN, **NARROW)
VQ = _whole("VQModel", **PLAIN, **NARROW, num_vq_embeddings=16)
WAN = _whole("AutoencoderKLWan", base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
             latents_mean=[0.0] * 4, latents_std=[1.0] * 4, scale_factor_temporal=1, scale_factor_spatial=2)  # fmt: skip
DC = _whole(
    "AutoencoderDC", latent_channels=4, attention_head_dim=8, encoder_block_types=("ResBlock", "EfficientViTBlock"),
    decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16),
    encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), (5,)),
    decoder_qkv_multiscales=((), (5,)),
)  # fmt: skip
OOBLECK = _whole("AutoencoderOobleck", encoder_hidden_size=8, downsampling_ratios=[2, 4], channel_multiples=[1, 2],
                 decoder_channels=8, decoder_input_channels=4)  # fmt: skip

ARCHITECTURES = {
    "AutoencoderKL": Architecture(KL, IMAGE),
    "AutoencoderKL, encoder": Architecture(_half(KL, "encoder"), IMAGE),
    "AutoencoderKL, decoder": Architecture(_half(KL, "decoder"), (4, 16, 16)),
    "AutoencoderTiny": Architecture(
        _whole("AutoencoderTiny", encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
               num_decoder_blocks=(1, 1)), IMAGE,
    ),
    "AsymmetricAutoencoderKL": Architecture(
        _whole("AsymmetricAutoencoderKL", **PLAIN, down_block_out_channels=(8, 16), up_block_out_channels=(8, 16), norm_num_groups=4),
        IMAGE,
    ),
    "ConsistencyDecoderVAE, encoder": Architecture(
        _half(_whole("ConsistencyDecoderVAE", encoder_block_out_channels=(8, 16), encoder_down_block_types=("DownEncoderBlock2D",) * 2,
                     encoder_norm_num_groups=4, decoder_block_out_channels=(8, 16), decoder_norm_num_groups=4,
                     decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2, decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2),
              "encoder"), IMAGE,
    ),
    "AutoencoderKLFlux2": Architecture(
        _whole("AutoencoderKLFlux2", **PLAIN, **NARROW, latent_channels=4), IMAGE,
    ),
    "VQModel": Architecture(VQ, IMAGE),
    "VQModel, encoder": Architecture(_half(VQ, "encoder"), IMAGE),
    "VQModel, MoVQ": Architecture(_whole("VQModel", **PLAIN, block_out_channels=(32, 32), layers_per_block=1, norm_type="spatial", latent_channels=4, vq_embed_dim=4), IMAGE),
    "AutoencoderDC": Architecture(DC, IMAGE),
    "AutoencoderDC, encoder": Architecture(_half(DC, "encoder"), IMAGE),
    "AutoencoderKLHunyuanImage": Architecture(
        _whole("AutoencoderKLHunyuanImage", in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64),
               layers_per_block=1, spatial_compression_ratio=2, sample_size=32), IMAGE,
    ),
    "AutoencoderKLTemporalDecoder": Architecture(
        _whole("AutoencoderKLTemporalDecoder", block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1),
        IMAGE, lambda image: {"sample": image, "num_frames": len(image)},
    ),
    "AutoencoderKLWan": Architecture(WAN, FILM, scale=FLAT_TIME),
    "AutoencoderKLQwenImage": Architecture(
        _whole("AutoencoderKLQwenImage", base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
               latents_mean=[0.0] * 4, latents_std=[1.0] * 4), (3, 1, 32, 32), scale=FLAT_TIME,
    ),
    "AutoencoderKLCogVideoX": Architecture(
        _whole("AutoencoderKLCogVideoX", down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2,
               block_out_channels=(8, 16), latent_channels=4, layers_per_block=1, norm_num_groups=4, temporal_compression_ratio=2,
               sample_height=32, sample_width=32), FILM, scale=FLAT_TIME,
    ),
    "AutoencoderKLLTXVideo": Architecture(
        _whole("AutoencoderKLLTXVideo", latent_channels=4, block_out_channels=(8, 16), down_block_types=("LTXVideoDownBlock3D",) * 2,
               decoder_block_out_channels=(8, 16), layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
               spatio_temporal_scaling=(True, False), decoder_spatio_temporal_scaling=(True, False),
               decoder_inject_noise=(False,) * 3, downsample_type=("conv", "conv"), upsample_residual=(False, False), upsample_factor=(1, 1),
               patch_size=2), FILM, scale=FLAT_TIME,
    ),
    "AutoencoderKLMochi, decoder": Architecture(
        _half(_whole("AutoencoderKLMochi", encoder_block_out_channels=(32, 64), decoder_block_out_channels=(32, 64), latent_channels=4,
                     layers_per_block=(1, 1, 1), temporal_expansions=(1, 1), spatial_expansions=(2, 2), add_attention_block=(False, False, False),
                     latents_mean=[0.0] * 4, latents_std=[1.0] * 4), "decoder"), (4, 3, 16, 16), scale=FLAT_TIME,
    ),
    "AutoencoderKLAllegro": Architecture(
        _half(_whole("AutoencoderKLAllegro", down_block_types=("AllegroDownBlock3D",) * 2, up_block_types=("AllegroUpBlock3D",) * 2,
               block_out_channels=(8, 16), temporal_downsample_blocks=(False, False), temporal_upsample_blocks=(False, False),
               layers_per_block=1, norm_num_groups=4, temporal_compression_ratio=1), "encoder"), (3, 4, 32, 32), scale=FLAT_TIME,
    ),
    "AutoencoderKLHunyuanVideo": Architecture(
        _whole("AutoencoderKLHunyuanVideo", latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4,
               up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4),
        FILM, scale=FLAT_TIME,
    ),
    "AutoencoderKLMagvit": Architecture(
        _whole("AutoencoderKLMagvit", latent_channels=4, block_out_channels=(8, 16),
               down_block_types=("SpatialDownBlock3D", "SpatialTemporalDownBlock3D"),
               up_block_types=("SpatialUpBlock3D", "SpatialTemporalUpBlock3D"), layers_per_block=1, norm_num_groups=4), FILM, scale=FLAT_TIME,
    ),
    "AutoencoderKLCosmos": Architecture(
        _whole("AutoencoderKLCosmos", latent_channels=4, encoder_block_out_channels=(8, 16), decode_block_out_channels=(8, 16),
               attention_resolutions=(32,), resolution=64, num_layers=1, patch_size=2, spatial_compression_ratio=4,
               temporal_compression_ratio=4, latents_mean=None, latents_std=None), FILM, scale=FLAT_TIME,
    ),
    "AutoencoderOobleck": Architecture(OOBLECK, (2, 512)),
    "AutoencoderOobleck, encoder": Architecture(_half(OOBLECK, "encoder"), (2, 512)),
    "AutoencoderOobleck, decoder": Architecture(_half(OOBLECK, "decoder"), (4, 64)),
}
