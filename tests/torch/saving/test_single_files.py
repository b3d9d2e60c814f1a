"""Stable Diffusion in one file: dilated, it loads everywhere; with larger kernels nowhere, and the command says so."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rekernel as rk
import rekernel.torch as rkt
from rekernel import RekernelError
from rekernel.diffusion import load_pipeline
from rekernel_cli.main import main

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from ...architectures.test_single_file_layouts import original  # noqa: E402

UNET = {
    "sample_size": 8, "block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2,
    "cross_attention_dim": 8, "attention_head_dim": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A single file, and a pipeline folder whose configs say what diffusers cannot guess of a tiny network."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("single")
    unet = diffusers.UNet2DConditionModel(**UNET)
    names = {name: original(name, 1, 4) for name in unet.state_dict()}
    weights = {names[name]: value.contiguous() for name, value in unet.state_dict().items()}
    save_file(weights, place / "sd.safetensors", metadata={"modelspec.resolution": "64x64"})
    vae = diffusers.AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    text = transformers.CLIPTextConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=transformers.CLIPTextModel(text), tokenizer=None, unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(place / "sd")
    return place, pipe


def options(place, pipe):
    return {"config": str(place / "sd"), "vae": pipe.vae, "text_encoder": pipe.text_encoder, "tokenizer": None,
            "safety_checker": None, "feature_extractor": None, "local_files_only": True}  # fmt: skip


def answer(unet):
    x, words = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in ((1, 4, 16, 16), (1, 5, 8)))
    with torch.no_grad():
        return unet.eval()(x, 10, words).sample


def test_a_dilated_file_has_the_source_s_weights_and_load_pipeline_dilates(folder, tmp_path):
    place, pipe = folder
    rk.convert(place / "sd.safetensors", tmp_path / "sd-2x.safetensors", scale=2, method="dilate")
    before, after = load_file(place / "sd.safetensors"), load_file(tmp_path / "sd-2x.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    with safe_open(tmp_path / "sd-2x.safetensors", "pt") as opened:
        assert opened.metadata()["modelspec.resolution"] == "64x64"
    plain = diffusers.StableDiffusionPipeline.from_single_file(
        str(tmp_path / "sd-2x.safetensors"), **options(place, pipe)
    )
    assert torch.equal(answer(plain.unet), answer(pipe.unet))
    loaded = load_pipeline(tmp_path / "sd-2x.safetensors", **options(place, pipe))
    assert loaded.rekernel.rescaled == {"unet": 2.0} and loaded.unet.config.sample_size == 16
    rk.convert(place / "sd", tmp_path / "folder", scale=2, method="dilate")  # dense kernels with zeros
    assert torch.allclose(
        answer(loaded.unet), answer(rkt.load_pretrained(tmp_path / "folder", subfolder="unet")), atol=1e-6
    )
    assert not torch.allclose(answer(loaded.unet), answer(pipe.unet), atol=1e-3)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(answer(rkt.load_pretrained(tmp_path / "again", subfolder="unet")), answer(loaded.unet))


def test_what_nothing_loads_is_said_with_the_ways_out(folder, tmp_path):
    place, pipe = folder
    source, target = str(place / "sd.safetensors"), str(tmp_path / "sd-2x.safetensors")
    for command in (["plan", source], ["convert", source, target, "--dry-run"], ["convert", source, target]):
        said = CliRunner().invoke(main, [*command, "--scale", "2"])
        assert said.exit_code == 0 and "No other program loads such a file" in said.stdout
        assert (
            "save_pretrained('sd')" in said.stdout and "--guidance" in said.stdout and "--method dilate" in said.stdout
        )
    with pytest.raises(RekernelError, match="larger kernels, and diffusers builds 3x3"):
        load_pipeline(target, **options(place, pipe))
    with pytest.raises(RekernelError, match="has no recipe"):
        load_pipeline(source, **options(place, pipe))
    rk.convert(source, tmp_path / "dilated.safetensors", scale=2, method="dilate")
    with pytest.raises(RekernelError, match="diffusers cannot load this file"):
        load_pipeline(tmp_path / "dilated.safetensors", config=str(tmp_path / "nowhere"), local_files_only=True)
    said = CliRunner().invoke(main, ["inspect", str(tmp_path / "dilated.safetensors")])
    assert "loaded by" in said.stdout and "load_pipeline(" in said.stdout
