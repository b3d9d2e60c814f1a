"""`rescale` by size, by preset, and of models that take their pixels flattened."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import rekernel as rk
import rekernel.torch as rkt
from rekernel import RekernelError
from rekernel_cli.main import main

F = nn.functional


class MLP(nn.Module):
    """An MLP of 28x28 pixels; `flatten` is how its forward makes them flat."""

    def __init__(self, flatten=lambda x: x.flatten(1), inputs=784):
        super().__init__()
        self.fc1, self.fc2, self.flatten = nn.Linear(inputs, 16), nn.Linear(16, 10), flatten

    def forward(self, x):
        return self.fc2(self.fc1(self.flatten(x)).relu())


FLAT = MLP(lambda x: x)


def reads_the_reduced(model, larger, take=lambda x: x.flatten(1), channels=1):
    x = torch.randn(2, channels, 56, 56)
    return torch.allclose(larger(take(x)), model(take(F.avg_pool2d(x, 2))), atol=1e-5)


@pytest.mark.parametrize("size", [56, (56, 56), "56x56"])
def test_a_size_is_the_scale_of_the_example(size):
    model = MLP()
    larger = rkt.rescale(model, size=size, example_input=torch.zeros(1, 1, 28, 28))
    assert larger.rekernel_plan.scale == (2, 2) and reads_the_reduced(model, larger, lambda x: x)


def test_width_comes_first_in_text():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    assert rkt.rescale(conv, size="32x16", example_input=torch.zeros(1, 1, 16, 16)).rekernel_plan.scale == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scale": (56, 56)}, r"did you mean size=\(56, 56\)\?"),
        ({"scale": 28}, r"did you mean size="),
        ({"scale": 2, "size": 56}, "give either scale=2 or size=384"),
        ({}, "give either scale=2 or size=384"),
        ({"size": (56, 56, 56)}, "has 3 entries for the 2 spatial axes"),
        ({"size": "x"}, "is not a size in pixels"),
        ({"scale": 2, "example_input": None}, "example_input is missing"),
        ({"scale": 2, "preset": "inner"}, "preset='inner' is not a preset of this MLP, which has all"),
        ({"scale": 2, "grids": {"fc1": (3, 28, 28)}}, "a grid of 3x28x28 has 2352 pixels, but fc1 reads 784"),
        ({"scale": 2, "grids": {"fc1": (4, 14, 14)}}, "fc1 reads a grid of 1x28x28 in the model's own code"),
        ({"scale": 2, "grids": {"fc2": (1, 4, 4)}}, "fc2 does not read the flattened input"),
        ({"scale": 2, "grids": {"fc9": (1, 4, 4)}}, "fc9"),
        ({"scale": 2, "grids": {"fc1": 28}}, "28 of fc1 is not channels and then the size along each axis"),
        ({"scale": 2, "grids": [28]}, r"is not a dict .* grids=\{'fc1': \(1, 28, 28\)\}"),
    ],
)
def test_slips(arguments, said):
    with pytest.raises(RekernelError, match=said):
        rkt.rescale(MLP(), **{"example_input": torch.zeros(1, 1, 28, 28), **arguments})


@pytest.mark.parametrize("shape", [(1, 784), (2, 784)])
def test_flat_pixels_are_the_picture_that_grids_tells(shape):
    larger = rkt.rescale(FLAT, 2, torch.zeros(shape), grids={"fc1": (1, 28, 28)})
    assert larger.fc1.in_features == 4 * 784 and larger.rekernel_plan.checked.startswith("exact")
    assert reads_the_reduced(FLAT, larger) and not larger._forward_pre_hooks
    assert "grid 1x28x28" in str(larger.rekernel_plan)


def test_flat_colours():
    model = MLP(lambda x: x, 3 * 28 * 28)
    larger = rkt.rescale(model, size=56, example_input=torch.zeros(1, 2352), grids={"fc*1": (3, 28, 28)})
    assert reads_the_reduced(model, larger, channels=3)


def test_a_picture_without_its_axis_of_channels():
    model = MLP()
    with_grids = rkt.rescale(model, 2, torch.zeros(1, 28, 28), grids={"fc1": (1, 28, 28)})
    assert reads_the_reduced(model, with_grids, lambda x: x[:, 0]) and not with_grids.rekernel_plan.warnings
    [note] = rkt.rescale(model, 2, torch.zeros(1, 28, 28)).rekernel_plan.warnings
    assert "a signal of 28 samples with 28 channels" in note
    assert "pass (1, 1, 28, 28), or grids={'fc1': (1, 28, 28)}" in note
    assert not rkt.rescale(MLP(inputs=12 * 1000), 2, torch.zeros(1, 12, 1000)).rekernel_plan.warnings  # a signal


@pytest.mark.parametrize("model", [FLAT, MLP()])
def test_flat_pixels_without_grids_are_noted(model):
    notes = rkt.rescale(model, 2, torch.zeros(1, 784)).rekernel_plan.warnings
    assert any("784" in note and "grids={'fc1': (1, 28, 28)}" in note for note in notes)


def test_a_fixed_number_of_pixels_in_the_code_is_named_with_its_remedy():
    fixed = MLP(lambda x: x.view(-1, 784))
    [note] = rkt.rescale(fixed, 2, torch.zeros(1, 1, 28, 28)).rekernel_plan.warnings
    assert "as x.view(-1, 784) does, write x.flatten(1) there" in note
    with pytest.raises(RekernelError, match=r"write x.flatten\(1\) there"):
        rkt.rescale(fixed, 2, torch.zeros(1, 784), grids={"fc1": (1, 28, 28)})


def test_a_noise_predictor_has_the_preset_inner():
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    example = (torch.zeros(1, 3, 8, 8), torch.tensor(5))

    def changed(**options):
        return {c.name for c in rkt.rescale(unet, 2, example, check=False, **options).rekernel_plan.changed}

    inner, every = changed(), changed(preset="all")
    assert inner == changed(preset="inner") and "conv_in.weight" not in inner and inner < every
    assert changed(preset="inner", include=["conv_in*"]) == inner | {"conv_in.weight"}
    with pytest.raises(
        RekernelError, match=r"preset='outer' is not a preset of this UNet2DModel, which has all, .*inner"
    ):
        changed(preset="outer")


@pytest.mark.parametrize("patch", [16, 14])
def test_224_to_384_in_python_is_what_plain_transformers_loads(patch, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=224,
        patch_size=patch, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    larger = rkt.rescale(model, size=384, example_input=torch.zeros(1, 3, 224, 224))
    assert larger.config.image_size == 384 and larger.config.patch_size == (16 if patch == 16 else 24)
    noted = any(w.startswith("patches of 16x16 pixels cannot grow by 1.71429") for w in larger.rekernel_plan.warnings)
    assert noted == (patch == 16)
    fresh = transformers.ViTForImageClassification(larger.config).eval()
    fresh.load_state_dict(larger.state_dict())
    x = torch.randn(1, 3, 384, 384)
    assert torch.allclose(fresh(x).logits, larger(x).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (256, r"size=256 is of the input of this Denoiser, 16x16 latents; for a picture of 256x256 .* write size=32$"),
        ((128, 512), r"size=\(128, 512\) is of the input .* write size=\(16, 64\)$"),
    ],
)
def test_the_size_of_a_picture_is_not_taken_for_one_of_latents(size, said):
    class Denoiser(nn.Conv2d):
        config = SimpleNamespace(sample_size=16)

    net, latents = Denoiser(4, 4, 3, padding=1), torch.zeros(1, 4, 16, 16)
    with pytest.raises(RekernelError, match=said):
        rkt.rescale(net, size=size, example_input=latents)
    assert rkt.rescale(net, size=32, example_input=latents).rekernel_plan.scale == (2, 2)
    pixels = nn.Conv2d(3, 3, 3, padding=1)
    larger = rkt.rescale(pixels, size=256, example_input=torch.zeros(1, 3, 16, 16), method="dilate")
    assert larger.rekernel_plan.scale == (16, 16)


@pytest.mark.parametrize("size", [390, 225, 250])
def test_patches_that_stay_need_an_image_of_whole_patches(size, tmp_path):
    """In Python and on the command line alike: what is left of the image could not be told by the config."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=224, patch_size=16
    )
    vit, image = transformers.ViTForImageClassification(config), torch.zeros(1, 3, 224, 224)
    least = size // 16 * 16
    said = f"{size} is not a multiple of 16, the pixels of a patch, .* {least} and {least + 16} are. "
    with pytest.raises(RekernelError, match=f"{said}mode='absorb' resamples the image to 224x224"):
        rkt.rescale(vit, size=size, example_input=image)
    vit.save_pretrained(tmp_path)
    result = CliRunner().invoke(main, ["plan", str(tmp_path), "--to", f"{size}x{size}"])
    assert result.exit_code == 1 and re.search(f"{said}--mode absorb resamples", " ".join(result.stderr.split()))
    assert rkt.rescale(vit, size=size, example_input=image, mode="absorb").rekernel_plan.resamples


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (np.zeros((1, 3, 16, 16), np.float32), r"pass torch\.from_numpy\(x\)"),
        ((1, 3, 16, 16), r"is a shape, not a tensor; pass torch\.zeros\(1, 3, 16, 16\)"),
        (torch.zeros(3, 16, 16), "add the batch axis: pass x.None., of shape 1x3x16x16$"),
        (torch.zeros(1, 3, 32, 32), "pass the example at 16x16, the trained size$"),
        ((torch.zeros(1, 3, 32, 32), 1), "and several arguments are a tuple or a dict$"),
    ],
)
def test_a_wrong_example_is_told_what_to_pass(example, said):
    class Strict(nn.Module):
        config = SimpleNamespace(image_size=16)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x, scale=1):
            _, _, height, width = x.shape
            if (height, width) != (16, 16):
                raise ValueError("wrong size")
            return self.conv(x).mean((2, 3)) * scale

    with pytest.raises(RekernelError, match=said):
        rkt.rescale(Strict(), 2, example)


def test_inputs_of_the_trained_size_are_not_measured_without_a_word():
    model = nn.Conv2d(1, 1, 3, padding=1)
    larger = rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16))
    with pytest.warns(rk.RekernelWarning, match="x has 16x16 pixels, the trained size.* new size, 32x32"):
        rkt.equivariance_error(model, larger, torch.ones(1, 1, 16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rkt.equivariance_error(model, larger, torch.ones(1, 1, 32, 32))


def test_a_transformer_that_reads_more_tokens_says_so_in_one_warning():
    """What modules hold and what each layer of attention sees follow from it: they are in the plan alone."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8, image_size=48, patch_size=16
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        larger = rkt.rescale(
            transformers.ViTForImageClassification(config), size=64, example_input=torch.zeros(1, 3, 48, 48)
        )
    assert [str(w.message).partition(",")[0] for w in caught] == ["patches of 16x16 pixels cannot grow by 1.33333"]
    notes = larger.rekernel_plan.warnings
    assert any("num_patches 9 -> 16" in note for note in notes) and any("17 tokens instead of 10" in n for n in notes)


def test_a_misspelt_name_of_a_package_is_told():
    for package, name, meant in (
        (rk, "rescale", "rekernel.torch.rescale"), (rkt, "resacle", "rekernel.torch.rescale"),
        (rk, "convrt", "rekernel.convert"),
    ):  # fmt: skip
        with pytest.raises(AttributeError, match=rf"did you mean {meant}\?"):
            getattr(package, name)
    assert not hasattr(rk, "__wrapped__")
