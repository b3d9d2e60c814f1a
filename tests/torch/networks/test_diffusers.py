"""diffusers' denoisers and autoencoders, from benchmarks/accuracy/zoo.py.

Why dilation wins or loses (docs/pytorch.md, "Where dilation wins"; benchmarks/accuracy/architectures.py): a layer of
stride 1 is exact when dilated, an interpolated one droops a little each time, and a network with random weights and
group norms amplifies what there is. A dilated layer with a stride sits half a pixel off. So dilation loses where there
are strides (encoders, UNets) and may win where there are none (decoders). Numbers are of this file's one input.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel.torch as rkt  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        "UNet2DModel",
        "UNet2DConditionModel, SD1.5",
        pytest.param("UNet2DConditionModel, SDXL", marks=pytest.mark.slow),
        pytest.param("UNetMotionModel", marks=pytest.mark.slow),
    ],
)
def test_denoiser(name: str, check: Any) -> None:
    """A stride-2 layer that a dilated kernel cannot place; UNetMotionModel keeps the scale of time. Dense .38, .52,
    .39, .49; factored .38, .51, .39, .47; dilated .43, .62, .45, .59; untouched .79, .81, .67, .80."""
    errors = check.of_the_zoo(name)
    assert errors.dense < errors.untouched
    assert errors.factored < errors.untouched
    assert max(errors.dense, errors.factored) < errors.dilated, errors


def test_autoencoder(check: Any) -> None:
    """Dense .46, factored .49, dilated .53, untouched .82. A strided encoder and a long decoder in one."""
    errors = check.of_the_zoo("AutoencoderKL")
    assert max(errors.dense, errors.factored) < errors.dilated < errors.untouched, errors


def test_encoder_alone(check: Any) -> None:
    """Dense .23, factored .28, dilated .31, untouched .80. It has attention, and its output is smaller than its input,
    but an image; so it supersamples by default."""
    errors = check.of_the_zoo("AutoencoderKL, encoder")
    assert max(errors.dense, errors.factored) < errors.dilated, errors
    assert errors.factored < errors.untouched
    net = check.ZOO["AutoencoderKL, encoder"]
    plan = rkt.rescale(net.build(), 2, torch.zeros(1, net.channels, *net.size)).rekernel_plan
    assert {c.mode for c in plan.changed} == {"supersample"}


def test_decoder_alone(check: Any) -> None:
    """Dense .38, factored .41, dilated .37, untouched .81. No strides, so dilation wins, mostly by its
    borders: zero padding around so small an image is exact when dilated. Made circular, factored kernels are as
    good."""
    errors = check.of_the_zoo("AutoencoderKL, decoder")
    assert errors.dilated < errors.dense < errors.untouched, errors


def test_temporal_decoder(check: Any) -> None:
    """Convolutions over time, 3x1x1, which keep their scale; otherwise as the other autoencoder. Dense
    .56, factored .57, dilated .62, untouched .85."""
    errors = check.of_the_zoo("AutoencoderKLTemporalDecoder")
    assert max(errors.dense, errors.factored) < errors.dilated < errors.untouched, errors


@pytest.mark.slow
def test_the_true_size_of_sd15(tmp_path: Any) -> None:
    """860 million weights: factored adds none of its own, and its file is the original's tensors."""
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
