"""Whole pipelines of each family, tiny and with random weights; text is given as embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

F = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 64}


def noise(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(kind: Any, **config: Any) -> Any:
    torch.manual_seed(0)
    net = kind(**config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():  # many begin at zero, and the network would predict nothing
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(0, 0.1, generator=generator)
    return net


def kl(levels: int = 2, **more: Any) -> Any:
    return made(
        diffusers.AutoencoderKL, sample_size=16, block_out_channels=(4,) * levels, norm_num_groups=2,
        latent_channels=4, layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, **more,
    )  # fmt: skip


def _sd3() -> Any:
    transformer = made(
        diffusers.SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, num_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=16,
        pooled_projection_dim=6, out_channels=4, pos_embed_max_size=24,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(shift_factor=0.06, scaling_factor=1.5), text_encoder=None, tokenizer=None, text_encoder_2=None,
        tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def _flux() -> Any:
    transformer = made(
        diffusers.FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=1, joint_attention_dim=8, pooled_projection_dim=6,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=kl(shift_factor=0.1, scaling_factor=0.4, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=transformer,
    )  # fmt: skip


def _qwen() -> Any:
    transformer = made(
        diffusers.QwenImageTransformer2DModel, patch_size=2, in_channels=16, out_channels=4, num_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=8, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = made(
        diffusers.AutoencoderKLQwenImage, base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1,
        temperal_downsample=[False], latents_mean=[0.1] * 4, latents_std=[1.5] * 4,
    )  # fmt: skip
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC), vae=vae, text_encoder=None, tokenizer=None,
        transformer=transformer,
    )  # fmt: skip


def _pixart() -> Any:
    transformer = made(
        diffusers.PixArtTransformer2DModel, sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1,
        attention_head_dim=6, num_attention_heads=2, cross_attention_dim=12, caption_channels=8,
        use_additional_conditions=False,
    )  # fmt: skip
    return diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=kl(), transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(**SD),
    )  # fmt: skip


def _sana() -> Any:
    transformer = made(
        diffusers.SanaTransformer2DModel, sample_size=16, patch_size=1, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=4,
        cross_attention_dim=8, caption_channels=8, timestep_scale=0.001,
    )  # fmt: skip
    vae = made(
        diffusers.AutoencoderDC, in_channels=3, latent_channels=4, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2, encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), scaling_factor=0.4,
    )  # fmt: skip
    return diffusers.SanaPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(**F),
    )  # fmt: skip


def _wan() -> Any:
    transformer = made(
        diffusers.WanTransformer3DModel, patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12,
        in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    vae = made(
        diffusers.AutoencoderKLWan, base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.2] * 4, latents_std=[1.3] * 4,
    )  # fmt: skip
    return diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=diffusers.UniPCMultistepScheduler(**F),
    )  # fmt: skip


def _flux2() -> Any:
    transformer = made(
        diffusers.Flux2Transformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=8, timestep_guidance_channels=8,
        axes_dims_rope=(2, 6, 6, 2),
    )  # fmt: skip
    vae = made(
        diffusers.AutoencoderKLFlux2, block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.bn.running_mean.copy_(0.1 * noise(16))
    vae.bn.running_var.copy_(1 + 0.3 * noise(16, seed=1).abs())
    return diffusers.Flux2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC), vae=vae, text_encoder=None, tokenizer=None,
        transformer=transformer,
    )  # fmt: skip


def _z_image() -> Any:
    transformer = made(
        diffusers.ZImageTransformer2DModel, in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=8, axes_dims=[4, 6, 6], axes_lens=[64, 64, 64],
    )  # fmt: skip
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=kl(shift_factor=0.1, scaling_factor=0.4),
        text_encoder=None, tokenizer=None, transformer=transformer,
    )  # fmt: skip


def _lumina() -> Any:
    transformer = made(
        diffusers.Lumina2Transformer2DModel, sample_size=8, in_channels=4, hidden_size=32, num_layers=1,
        num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 6, 6),
        axes_lens=(64, 64, 64), cap_feat_dim=8,
    )  # fmt: skip
    return diffusers.Lumina2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC), text_encoder=None, tokenizer=None,
        vae=kl(4, shift_factor=0.1, scaling_factor=0.4), transformer=transformer,
    )  # fmt: skip


def _ltx() -> Any:
    transformer = made(
        diffusers.LTXVideoTransformer3DModel, in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=16, cross_attention_dim=32, num_layers=1, caption_channels=8,
    )  # fmt: skip
    vae = made(
        diffusers.AutoencoderKLLTXVideo, latent_channels=4, block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1), spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False), decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, timestep_conditioning=False, patch_size=1,
        patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    vae.latents_mean.copy_(0.1 * noise(4))
    vae.latents_std.copy_(1.2 + 0.1 * noise(4, seed=1))
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC), vae=vae, text_encoder=None, tokenizer=None,
        transformer=transformer,
    )  # fmt: skip


def _cogvideox() -> Any:
    transformer = made(
        diffusers.CogVideoXTransformer3DModel, num_attention_heads=2, attention_head_dim=16, in_channels=4,
        out_channels=4, time_embed_dim=4, text_embed_dim=8, num_layers=1, sample_width=4, sample_height=4,
        sample_frames=9, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=5,
        use_rotary_positional_embeddings=True,
    )  # fmt: skip
    vae = made(
        diffusers.AutoencoderKLCogVideoX, in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1,
        block_out_channels=(8, 8, 8, 8), norm_num_groups=2, temporal_compression_ratio=4,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
    )  # fmt: skip
    return diffusers.CogVideoXPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=diffusers.CogVideoXDPMScheduler(prediction_type="v_prediction"),
    )  # fmt: skip


def _text(*names: str, width: int = 8) -> dict[str, Any]:
    return {name: noise(1, 5, width, seed=seed) for seed, name in enumerate(names)}


BOTH = ("prompt_embeds", "negative_prompt_embeds")
MASKS = {name.replace("embeds", "attention_mask"): torch.ones(1, 5, dtype=torch.long) for name in BOTH}
POOLED = {"pooled_prompt_embeds": noise(1, 6, seed=4), "negative_pooled_prompt_embeds": noise(1, 6, seed=5)}
EMPTY = {"negative_prompt": None}


@dataclass
class Family:
    """A pipeline and how it is called.

    sizes : of a cascade, the trained size first
    options : the text
    pixels : shape of the result in pixels at the last size, without its batch
    """

    make: Callable[[], Any]
    options: dict[str, Any]
    sizes: tuple[int, int] = (16, 32)
    shape: tuple[int, ...] = (3, 32, 32)

    def pipe(self) -> Any:
        pipe = self.make()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def call(self, **more: Any) -> dict[str, Any]:
        return {"num_inference_steps": 4, "output_type": "pt", **self.options, **more}


FAMILIES = {
    "sd3": Family(_sd3, {**_text(*BOTH), **POOLED}),
    "flux": Family(_flux, {**_text("prompt_embeds"), "pooled_prompt_embeds": POOLED["pooled_prompt_embeds"]}),
    "qwen": Family(
        _qwen,
        {
            "prompt_embeds": noise(1, 5, 8), "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
            "true_cfg_scale": 1.0,
        },
    ),
    "pixart": Family(_pixart, {**_text(*BOTH), **MASKS, **EMPTY}),
    "sana": Family(_sana, {**_text(*BOTH), **MASKS, **EMPTY}, (32, 64), (3, 64, 64)),
    "flux2": Family(_flux2, _text("prompt_embeds")),
    "z-image": Family(
        _z_image, {"prompt_embeds": [noise(5, 8)], "negative_prompt_embeds": [noise(4, 8, seed=1)]},
    ),
    "lumina2": Family(
        _lumina,
        {
            **_text(*BOTH), "prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
            "negative_prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
        },
        (64, 128), (3, 128, 128),
    ),
    "ltx": Family(
        _ltx,
        {
            **_text(*BOTH), "prompt_attention_mask": torch.ones(1, 5), "num_frames": 9,
            "negative_prompt_attention_mask": torch.ones(1, 5),
        },
        (32, 64), (9, 3, 64, 64),
    ),
    "cogvideox": Family(_cogvideox, {**_text(*BOTH), "num_frames": 9}, (32, 64), (9, 3, 64, 64)),
    "wan": Family(_wan, {**_text(*BOTH), **EMPTY, "num_frames": 9}, (64, 128), (9, 3, 128, 128)),
}  # fmt: skip
