"""What may be recorded, converted and attached on top of what: nothing twice, and nothing that could never load."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMPipeline, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, UNet2DModel

import rekernel as rk
from rekernel import RekernelError
from rekernel.diffusion import Recorded, SupersampledKernels, UpsampleGuidance, load_pipeline, record
from rekernel_cli.main import main


def unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "small"
    DDIMPipeline(unet(), DDIMScheduler()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def recorded(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "out"
    record(folder, path, 2.0, guidance={})
    return path


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "out"
    rk.convert(folder, path, scale=2)
    return path


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=1, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10, norm_num_groups=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("dit") / "in"
    DiTPipeline(net, None, DDIMScheduler()).save_pretrained(path)
    return path


def refused(said, call, *arguments, **options):
    with pytest.raises(RekernelError, match=said) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


# -- twice ------------------------------------------------------------------------------------------------------------


def test_a_folder_that_records_guidance_is_not_converted(recorded, tmp_path):
    said = "records guidance .*convert the original folder"
    refused(said, rk.convert, recorded, tmp_path / "out", scale=2)
    refused(said, rk.convert, recorded, tmp_path / "out", plan=rk.plan_checkpoint(weights(recorded), scale=2))
    refused(said, rk.convert, recorded / "unet", tmp_path / "out", scale=2)
    refused(said, rk.plan_source, recorded, scale=2)
    assert not (tmp_path / "out").exists()


def weights(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def test_its_weights_by_themselves_are(folder, recorded, tmp_path):
    for name, source in (("a", folder), ("b", recorded)):
        rk.convert(weights(source), tmp_path / f"{name}.safetensors", scale=2)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_guidance_is_not_recorded_for_rescaled_weights(converted, tmp_path):
    load_pipeline(converted).save_pretrained(tmp_path / "again")  # by diffusers, which writes no recipe
    for source in (converted, tmp_path / "again"):
        for options in ({"guidance": {}}, {"kernels": {}}):
            refused("rescaled already.*original folder", record, source, tmp_path / "out", 2.0, **options)
    refused("rescaled already", rk.convert, tmp_path / "again", tmp_path / "out", scale=2)
    refused("rescaled already", rk.convert, weights(tmp_path / "again"), tmp_path / "out.safetensors", scale=2)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_both_is_not_loaded(recorded, converted, tmp_path):
    shutil.copytree(converted, tmp_path / "both")
    shutil.copy(recorded / "unet" / "config.json", tmp_path / "both" / "unet" / "config.json")
    refused("would rescale again", load_pipeline, tmp_path / "both")
    plan = load_pipeline(converted).unet.rekernel_plan
    refused("rescaled themselves", Recorded, 2.0, 16, {"theta": 1.0}, plan=plan)


@pytest.mark.parametrize("kind", [SupersampledKernels, UpsampleGuidance])
def test_nothing_is_attached_to_rescaled_weights(converted, kind):
    pipe = load_pipeline(converted)
    before = dict(vars(pipe.unet))
    refused("rescaled already.*original", kind(2).attach, pipe)
    refused("rescaled already.*original", kind(2).attach, pipe.unet, scheduler=pipe.scheduler)
    assert vars(pipe.unet) == before


def test_a_denoiser_that_is_passed(folder, recorded, converted):
    refused("this UNet2DModel is not", load_pipeline, converted, unet=unet())
    mine = load_pipeline(converted).unet
    again = load_pipeline(converted, unet=mine)
    assert again.unet is mine and mine.config.sample_size == 32  # once, not twice
    assert load_pipeline(recorded, unet=(plain := unet())).unet is plain


def test_a_config_that_lists_its_sides_goes_round():
    assert Recorded(2.0, [16, 32]).new_size == (32, 64)


# -- what could never load --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "options", "said"),
    [
        (2.0, {"kernels": {"layers": "outer"}}, "'outer' is not a preset"),
        (2.0, {"kernels": {"layers": ["nothing*"]}}, "nothing.* matches no tensor"),
        (2.0, {"kernels": {"layers": ["time_embedding*"]}}, "slides a kernel"),
        (2.0, {"kernels": {"layers": 3}}, "layers=3 must be"),
        ((1, 2, 2), {"guidance": {}}, "3 entries for the two axes"),
        ((2, 2, 2, 2), {"guidance": {}}, "at most 3"),
        (1.0, {"guidance": {}}, "is the trained size"),
        ("auto", {"guidance": {}}, "'auto' cannot be recorded"),
        (2.0, {}, "nothing to record"),
        (2.0, {"guidance": [1]}, "not a mapping of options by name"),
        (2.0, {"guidance": {"levels": 1.5}}, "whole number"),
        (2.0, {"guidance": {"start": 100, "stop": 900}}, "cleaner than"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_what_cannot_be_attached_is_not_recorded(folder, tmp_path, scale, options, said, dry_run):
    refused(said, record, folder, tmp_path / "out", scale, **options, dry_run=dry_run)
    assert not (tmp_path / "out").exists()


def test_a_transformer_has_no_kernels_and_can_be_guided(transformer, tmp_path):
    refused("not a preset of this DiTTransformer2DModel", record, transformer, tmp_path / "out", 2.0, kernels={})
    refused("slides a kernel", record, transformer, tmp_path / "out", 2.0, kernels={"layers": "all"})
    assert record(transformer, tmp_path / "out", 2.0, guidance={}).new_size == 16


def test_a_config_that_builds_nothing_is_one_line(folder, tmp_path):
    broken = tmp_path / "in"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "unet" / "config.json").read_text())
    (broken / "unet" / "config.json").write_text(json.dumps({**config, "down_block_types": ["Nowhere"]}))
    refused("cannot build a UNet2DModel", record, broken, tmp_path / "out", 2.0, guidance={})


def test_the_scheduler_is_asked_too(folder, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(folder, source)
    (source / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "KarrasVeScheduler"}')
    index = json.loads((source / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "KarrasVeScheduler"]}))
    refused("KarrasVeScheduler", record, source, tmp_path / "out", 2.0, guidance={})


def test_a_scale_in_words_and_numbers(folder, tmp_path):
    assert record(folder, tmp_path / "a", "2", guidance={}).scale == 2.0
    assert record(folder, tmp_path / "b", [2, 2], guidance={}).new_size == 32  # a number, as the config had


def test_weights_that_are_missing_or_pickled(recorded, converted, tmp_path):
    load_pipeline(converted).save_pretrained(tmp_path / "pickled", safe_serialization=False)
    refused("safe_serialization=True", load_pipeline, tmp_path / "pickled")
    shutil.copytree(recorded, tmp_path / "missing")
    weights(tmp_path / "missing").unlink()
    refused("diffusers cannot load this folder: no file", load_pipeline, tmp_path / "missing")


def test_the_command_line_checks_the_same(folder, tmp_path):
    for options, code, said in (
        (("--preset", "outer"), 1, "not a preset"),
        (("--component", "vae"), 2, "--component"),
        (("--preset", "outer", "--dry-run"), 1, "not a preset"),
    ):
        arguments = ["convert", folder, tmp_path / "out", "--scale", "2", "--guidance", "theta=1", *options]
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert (done.exit_code, said in done.output) == (code, True), done.output
    assert not (tmp_path / "out").exists()


# -- saved again ------------------------------------------------------------------------------------------------------


def test_a_saved_transformer_keeps_the_positions_of_its_trained_size(transformer, tmp_path):
    """Its config tells the new size then, and positions are made from what a config tells."""
    record(transformer, tmp_path / "out", 2.0, guidance={})
    first = load_pipeline(tmp_path / "out", vae=None)
    first.save_pretrained(tmp_path / "again")
    dtypes = {"transformer": torch.float64, "default": torch.float32}
    again = load_pipeline(tmp_path / "again", vae=None, dtype=dtypes)
    assert first.transformer.config.sample_size == again.transformer.config.sample_size == 16
    assert torch.equal(first.transformer.pos_embed.pos_embed, again.transformer.pos_embed.pos_embed.float())
    assert again.transformer.dtype == torch.float64
