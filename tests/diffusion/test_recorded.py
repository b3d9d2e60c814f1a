"""Pipeline folders that say how to sample above their size: written, loaded, saved again, removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline, UNet2DModel

import rekernel as rk
from rekernel import RekernelError
from rekernel.checkpoint.locked_file import claimed
from rekernel.diffusion import Recorded, SupersampledKernels, UpsampleGuidance, load_pipeline, record
from rekernel_cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("pipeline") / "small"
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(path)
    return path


def sampled(pipe):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(1)
    return pipe(generator=noise, num_inference_steps=3, output_type="np").images


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_recording_adds_one_entry_and_leaves_every_other_byte(folder, tmp_path):
    record(folder, tmp_path / "out", 2.0, guidance={"theta": 1.0}, kernels={"until": 0.7})
    before, after = contents(folder), contents(tmp_path / "out")
    assert before.keys() == after.keys()
    [changed] = [name for name in before if before[name] != after[name]]
    assert changed == Path("unet", "config.json")
    entry = json.loads(after[changed]).pop("_rekernel")
    assert (entry["scale"], entry["sample_size"], entry["kernels"]) == (2.0, 16, {"until": 0.7})


def test_a_loaded_pipeline_is_the_plain_one_with_both_attached(folder, tmp_path):
    out = tmp_path / "out"
    record(folder, out, 2.0, guidance={}, kernels={"layers": "inner"})
    loaded = load_pipeline(out)
    images = sampled(loaded)
    assert images.shape == (1, 32, 32, 1)
    assert "UpsampleGuidance(scale=2" in repr(loaded)
    assert "SupersampledKernels(scale=2" in repr(loaded)

    plain = DiffusionPipeline.from_pretrained(out)
    plain.unet.register_to_config(sample_size=32)
    untouched = sampled(plain)
    with SupersampledKernels(2).attach(plain), UpsampleGuidance(2).attach(plain):
        np.testing.assert_array_equal(sampled(plain), images)
    assert np.abs(untouched - images).max() > 0.01
    loaded.rekernel.remove()
    np.testing.assert_array_equal(sampled(loaded), untouched)


@pytest.mark.parametrize("kind", ["recorded", "converted"])
def test_what_save_pretrained_writes_loads_again(folder, tmp_path, kind):
    if kind == "recorded":
        record(folder, tmp_path / "out", 2.0, guidance={"theta": 1.3, "eta": 0.8})
    else:
        rk.convert(folder, tmp_path / "out", scale=2)
    first = load_pipeline(tmp_path / "out")
    images = sampled(first)
    assert images.shape == (1, 32, 32, 1)
    first.save_pretrained(tmp_path / "again")
    again = load_pipeline(tmp_path / "again")
    assert again.unet.config.sample_size == 32
    np.testing.assert_array_equal(sampled(again), images)


def test_a_converted_pipeline_has_the_rescaled_weights(folder, tmp_path):
    rk.convert(folder, tmp_path / "out", scale=2)
    pipe = load_pipeline(tmp_path / "out", dtype=torch.float64)
    assert pipe.unet.mid_block.resnets[0].conv1.kernel_size == (5, 5)
    assert pipe.unet.dtype == torch.float64
    assert (pipe.rekernel.guidance, pipe.rekernel.kernels) == (None, None)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"version": 7}, "version 1"),
        ({"version": 1, "scale": "auto", "sample_size": 16}, "scale is not a number"),
        ({"version": 1, "scale": 2}, "sample_size"),
        ({"version": 1, "scale": 2, "sample_size": 16, "guidance": {"thta": 1}}, "no option thta"),
        ({"version": 1, "scale": 2, "sample_size": 16, "kernels": {"method": "\x1b[2J"}}, r"\\x1b"),
    ],
)
def test_entries_that_are_none_are_one_line(folder, tmp_path, entry, said):
    out = tmp_path / "out"
    record(folder, out, 2.0, guidance={})
    config = json.loads((out / "unet" / "config.json").read_text())
    (out / "unet" / "config.json").write_text(json.dumps({**config, "_rekernel": entry}))
    with pytest.raises(RekernelError, match=said) as caught:
        load_pipeline(out)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_folders_that_record_nothing_are_refused(folder, tmp_path):
    with pytest.raises(RekernelError, match="neither rescaled weights nor guidance"):
        load_pipeline(folder)
    with pytest.raises(RekernelError, match="not a diffusers pipeline"):
        load_pipeline(tmp_path)
    record(folder, tmp_path / "out", 2.0, guidance={})
    with pytest.raises(RekernelError, match="recorded already"):
        record(tmp_path / "out", tmp_path / "twice", 2.0, guidance={})
    assert not (tmp_path / "twice").exists()


def test_a_target_with_a_file_of_that_name_is_left_alone(folder, tmp_path):
    out = tmp_path / "out"
    (out / "unet").mkdir(parents=True)
    (out / "unet" / "config.json").write_text("mine")
    with pytest.raises(RekernelError, match="exists"):
        record(folder, out, 2.0, guidance={})
    assert contents(out) == {Path("unet", "config.json"): b"mine"}
    record(folder, out, 2.0, guidance={}, force=True)
    guidance = load_pipeline(out).rekernel.guidance
    assert guidance is not None and guidance.scale == 2.0


def test_sizes_per_axis_go_round():
    made = Recorded((2.0, 1.5), (16, 32), {"theta": 1.0}, {"method": {4: "dilate", 2.0: None}})
    assert made.new_size == (32, 48)
    again = Recorded.from_entry(json.loads(json.dumps(made.to_entry())), "here")
    assert again.new_size == made.new_size
    assert repr(again.make_kernels()) == repr(made.make_kernels()).replace("4:", "4.0:")


# -- the command line ----------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_convert_with_guidance_and_sample(folder, tmp_path):
    out, grid = tmp_path / "guided", tmp_path / "grid.png"
    done = run("convert", folder, out, "--scale", "2", "--guidance", "theta=1.2,eta=0.8,until=0.6")
    assert done.exit_code == 0, done.output
    assert "theta=1.2" in done.output
    assert "until=0.6" in done.output
    done = run("sample", out, "--steps", "2", "--count", "3", "--out", grid)
    assert done.exit_code == 0, done.output
    assert "3 pictures of 32x32" in done.output
    assert grid.read_bytes().startswith(b"\x89PNG")
    assert run("sample", out, "--steps", "2", "--out", grid).exit_code == 1  # it exists


def test_a_converted_folder_is_sampled_at_its_new_size(folder, tmp_path, monkeypatch):
    rk.convert(folder, tmp_path / "out", scale=2)
    monkeypatch.chdir(tmp_path)  # a relative folder, too
    done = run("sample", "out", "--steps", "2", "--count", "2")
    assert done.exit_code == 0, done.output
    assert "2 pictures of 32x32" in done.output
    assert load_pipeline("out").unet.config.sample_size == 32


def test_the_same_seed_gives_the_same_grid_and_guidance_another(folder, tmp_path):
    options = ("--size", "32", "--steps", "2", "--count", "2", "--seed", "3", "--out")
    grids = []
    for i, more in enumerate(((), (), ("--guidance", "upsample"), ("--kernels", "dilate"))):
        done = run("sample", folder, *options, tmp_path / f"{i}.png", *more)
        assert done.exit_code == 0, done.output
        grids.append((tmp_path / f"{i}.png").read_bytes())
    assert grids[0] == grids[1]
    assert len(set(grids)) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--guidance", "theta"), 2, "NAME=VALUE"),
        (("--guidance", "theta=1,theta=2"), 2, "given twice"),
        (("--guidance", "levels=1.5"), 2, "whole number"),
        (("--guidance", "theta=1", "--dtype", "F16"), 2, "keeps the weights"),
        (("--guidance", "theta=1", "--taps", "7"), 2, "--taps"),
        (("--guidance", "eta=3"), 1, "eta=3"),
        (("--guidance", "theta=1,kernels=some"), 2, "kernels=none"),
    ],
)
def test_what_does_not_go_together_is_said(folder, tmp_path, arguments, code, said):
    done = run("convert", folder, tmp_path / "out", "--scale", "2", *arguments)
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert not (tmp_path / "out").exists()


def test_guidance_for_a_file_is_refused(folder, tmp_path):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    done = run("convert", weights, tmp_path / "out", "--scale", "2", "--guidance", "theta=1")
    assert done.exit_code == 1
    assert "not a diffusers pipeline folder" in done.output


def test_a_dry_run_writes_nothing(folder, tmp_path):
    done = run("convert", folder, tmp_path / "out", "--scale", "2", "--guidance", "theta=1", "--dry-run", "--json")
    assert json.loads(done.output)["recorded"]["guidance"] == {"theta": 1.0}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "kernels"),
    [
        (("theta=1",), None),
        (("theta=1,until=0.7",), {"layers": "inner", "method": "optimal", "until": 0.7}),
        (("theta=1,kernels=switched",), {"layers": "inner", "method": "optimal"}),
        (("theta=1", "--method", "dilate"), {"layers": "inner", "method": "dilate"}),
        (("theta=1,kernels=none", "--method", "dilate"), None),
    ],
)
def test_kernels_are_recorded_where_something_asks_for_them(folder, tmp_path, given, kernels):
    arguments = ["convert", str(folder), str(tmp_path / "out"), "--scale", "2", "--guidance", *given, "--json"]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["recorded"].get("kernels") == kernels


@pytest.mark.parametrize("where", ["", "inside", "unet/inside", "../small"])
def test_the_copy_is_not_written_into_its_source(folder, where):
    before = contents(folder)
    with pytest.raises(RekernelError, match=r"of the source, which|inside the source"):
        record(folder, folder / where, 2.0, guidance={}, force=True)
    assert contents(folder) == before


def test_another_run_into_the_same_folder_is_refused(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with claimed(out, folder=True), pytest.raises(RekernelError, match="another run"):
        record(folder, out, 2.0, guidance={}, force=True)
    assert list(out.iterdir()) == []
    record(folder, out, 2.0, guidance={})
    assert not list(tmp_path.rglob("*rekernel*"))


def test_the_index_is_written_last_and_an_old_record_is_whole_until_then(folder, tmp_path, monkeypatch):
    """A kill at each step is in tests/conversion/test_replacing.py: this is the same engine."""
    out = tmp_path / "out"
    seen = []
    real = os.replace

    def stop_at_the_index(source, target, **options):
        seen.append(Path(target).name)
        if Path(target).name == "model_index.json":
            raise KeyboardInterrupt
        return real(source, target, **options)

    monkeypatch.setattr(os, "replace", stop_at_the_index)
    with pytest.raises(KeyboardInterrupt):
        record(folder, out, 2.0, guidance={})
    assert set(seen) > {"config.json", "model_index.json"} and not (out / "model_index.json").exists()
    monkeypatch.undo()
    record(folder, out, 2.0, guidance={"theta": 1.0}, force=True)
    before = contents(out)
    monkeypatch.setattr(os, "replace", stop_at_the_index)
    with pytest.raises(KeyboardInterrupt):
        record(folder, out, 2.0, guidance={"theta": 2.0}, force=True)
    assert contents(out) == before
    monkeypatch.undo()
    record(folder, out, 2.0, guidance={"theta": 2.0}, force=True)
    assert contents(out) != before and not list(tmp_path.rglob("*rekernel*"))
