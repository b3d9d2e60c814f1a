"""diffusers' denoisers and autoencoders."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def sample(model: Any, x: Any) -> Any:
    return model(x, torch.full((1,), 10.0)).sample


def unet(**more: Any) -> Any:
    config = {
        "sample_size": 32, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4,
        "attention_head_dim": 8, "cross_attention_dim": 16,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return diffusers.UNet2DConditionModel(**{**config, **more})


def conditioned(model: Any, x: Any) -> Any:
    text = torch.zeros(1, 3, 16)
    more = {}
    if model.config.addition_embed_type == "text_time":
        more = {"added_cond_kwargs": {"text_embeds": torch.zeros(1, 8), "time_ids": torch.zeros(1, 6)}}
    return model(x, torch.full((1,), 10.0), text, **more).sample


def test_unet2d(check: Any) -> None:
    errors = check.architecture(
        lambda: check.Called(
            diffusers.UNet2DModel(
                sample_size=32, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
                down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            ),
            sample,
        ),
        3, (48, 48),
    )  # fmt: skip
    assert errors.dense < errors.untouched
    # Dense .50, factored .49, dilated .55, untouched .92. A random network amplifies every difference.
    assert errors.factored < errors.dilated


def test_unet_like_sd15(check: Any) -> None:
    errors = check.architecture(lambda: check.Called(unet(), conditioned), 4, (32, 32))
    assert errors.dense < errors.untouched
    # Dense .53, factored .51, dilated .62, untouched .81.
    assert errors.dense < errors.dilated


def test_unet_like_sdxl(check: Any) -> None:
    errors = check.architecture(
        lambda: check.Called(
            unet(
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
                addition_embed_type="text_time", addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=32, use_linear_projection=True,
            ),
            conditioned,
        ),
        4, (32, 32),
    )  # fmt: skip
    assert errors.dense < errors.untouched
    # Dense .41, factored .39, dilated .45, untouched .67.
    assert errors.factored < errors.dilated


def test_autoencoder(check: Any) -> None:
    errors = check.architecture(
        lambda: check.Called(
            diffusers.AutoencoderKL(
                block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
            ),
            lambda m, x: m(x).sample,
        ),
        3, (48, 48),
    )  # fmt: skip
    assert errors.dense < errors.untouched
    # Dense .73, factored .51, dilated .54, untouched .86. Dilation beats the 5 dense taps, whose droop adds up over
    # encoder and decoder; the longer, flatter filter of the factored form beats both.
    assert errors.factored < errors.dense


def test_unet_motion(check: Any) -> None:
    errors = check.architecture(
        lambda: check.Called(
            diffusers.UNetMotionModel(
                sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
                cross_attention_dim=16, num_attention_heads=2, motion_num_attention_heads=2, motion_max_seq_length=4,
                down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
                up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
            ),
            lambda m, x: m(x, torch.full((1,), 10.0), torch.zeros(x.shape[2], 3, 16)).sample,
        ),
        4, (2, 32, 32), scale=(1, 2, 2),
    )  # fmt: skip
    assert errors.dense < errors.untouched
    # Dense .51, factored .47, dilated .59, untouched .80. Time keeps its scale.
    assert errors.factored < errors.dilated


def test_temporal_decoder(check: Any) -> None:
    errors = check.architecture(
        lambda: check.Called(
            diffusers.AutoencoderKLTemporalDecoder(
                block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
            ),
            lambda m, x: m(x, num_frames=1).sample,
        ),
        3, (32, 32),
    )  # fmt: skip
    assert errors.dense < errors.untouched
    # Dense .67, factored .58, dilated .62, untouched .85: as the other autoencoder.
    assert errors.factored < errors.dense


@pytest.mark.slow
def test_the_true_size_of_sd15(tmp_path: Any) -> None:
    """860 million weights: factored adds none of its own, and its file is the original's tensors."""
    import rekernel.torch as rkt

    model = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    inputs = (torch.zeros(1, 4, 16, 16), torch.full((1,), 10.0), torch.zeros(1, 77, 768))
    weights = {name: (p, p.shape) for name, p in model.named_parameters()}
    rkt.rescale(model, 2, inputs, form="factored", inplace=True)
    for name, parameter in model.named_parameters():
        assert parameter is weights[name][0]
        assert parameter.shape == weights[name][1]
    with torch.no_grad():
        assert model(torch.zeros(1, 4, 32, 32), *inputs[1:]).sample.shape == (1, 4, 32, 32)
    rkt.save(model, tmp_path / "sd15.safetensors")
    with torch.device("meta"):
        empty = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    loaded = rkt.load(empty, tmp_path / "sd15.safetensors")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, weights[name][0]), name
