"""What `inspect` and `convert` say of loading: the line that works for that very thing, run here as it is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from safetensors.torch import save_file  # noqa: E402

import rekernel.diffusion  # noqa: E402
import rekernel.torch  # noqa: E402


def ok(result):
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8), norm_num_groups=2,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("pipeline") / "sd"
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler()).save_pretrained(path)
    return path


def loader(text: str) -> str:
    return " ".join(re.search(r"loaded by\s+(.*\))", text)[1].split())


def test_a_unet_folder_says_one_line_in_both_commands(run, folder, tmp_path):
    said = ok(run("convert", folder / "unet", tmp_path / "out", "--scale", "2"))
    call = said.splitlines()[1].removesuffix(" loads it.")
    shown = ok(run("inspect", tmp_path / "out"))
    assert loader(shown) == call
    loaded = eval(call, {"rekernel": rekernel})
    assert loaded.mid_block.resnets[0].conv1.kernel_size == (5, 5)
    assert "UNet2DModel.from_pretrained does not" in said
    assert "and 8 more" in shown.split("Layers, before -> after:")[1]
    names = ok(run("inspect", tmp_path / "out", "--tensors")).split("Layers, before -> after:")[1].split("\n\n")[0]
    assert "more" not in names and "mid_block.resnets.1.conv2" in names
    file = tmp_path / "out" / "diffusion_pytorch_model.safetensors"
    assert torch.equal(
        eval(loader(ok(run("inspect", file))), {"rekernel": rekernel}).conv_in.weight, loaded.conv_in.weight
    )
    file.rename(tmp_path / "alone.safetensors")
    assert loader(ok(run("inspect", tmp_path / "alone.safetensors"))).startswith("rekernel.torch.load(model, ")


def test_the_size_that_was_written_is_that_of_the_folder(run, folder, tmp_path):
    said = ok(run("convert", folder, tmp_path / "out", "--scale", "2"))
    from rekernel.text import byte_size

    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert f": {byte_size(sum(path.stat().st_size for path in files))} in {len(files)} files;" in said
    assert (
        loader(ok(run("inspect", tmp_path / "out"))) == f"rekernel.diffusion.load_pipeline({str(tmp_path / 'out')!r})"
    )


def test_recorded_guidance_is_shown(run, folder, tmp_path):
    options = "theta=1,eta=0.6,kernels=switched,cascade=0.5"
    ok(run("convert", folder, tmp_path / "out", "--scale", "2", "--guidance", options))
    shown = " ".join(ok(run("inspect", tmp_path / "out")).split())
    assert "sampling recorded at 2 times the trained size guidance: eta=0.6, theta=1.0 kernels:" in shown
    assert "cascade: 0.5" in shown and f"loaded by rekernel.diffusion.load_pipeline({str(tmp_path / 'out')!r})" in shown
    document = json.loads(ok(run("inspect", tmp_path / "out", "--json")))
    assert document["components"]["unet"]["recorded"]["guidance"] == {"theta": 1.0, "eta": 0.6}
    config = tmp_path / "out" / "unet" / "config.json"
    config.write_text(config.read_text().replace('"version": 1', '"version": 9'))
    assert "recipe" in ok(run("inspect", tmp_path / "out"))  # looking does not fail


def test_a_saved_pickle_shows_the_plan_of_its_config(run, folder, tmp_path):
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    example = {"sample": torch.zeros(1, 1, 8, 8), "timestep": torch.tensor(1)}
    rekernel.torch.rescale(unet, 2, example).save_pretrained(tmp_path, safe_serialization=False)
    assert "recipe    scale 2" in re.sub(
        r"recipe +", "recipe    ", ok(run("inspect", Path(tmp_path), "--allow-pickle"))
    )


@pytest.mark.parametrize(
    "format_, call", [("flax", "safetensors.flax.load_file"), ("keras", "safetensors.numpy.load_file")]
)
def test_a_file_of_another_framework_says_what_reads_it(run, tmp_path, format_, call):
    tensors = {"Conv_0/kernel": torch.ones(3, 3, 3, 8), "Conv_0/bias": torch.ones(8)}
    save_file(tensors, tmp_path / "in.safetensors", {"format": format_})
    target = tmp_path / "out.safetensors"
    said = ok(run("convert", tmp_path / "in.safetensors", target, "--scale", "2"))
    assert f"{call}({str(target)!r}) reads it, for a model with the new kernels" in said
    assert "torch" not in said and "verify" not in said
    assert loader(ok(run("inspect", target))) == f"{call}({str(target)!r})"
    if format_ == "keras":
        import safetensors.numpy

        assert eval(loader(ok(run("inspect", target))), {"safetensors": safetensors})["Conv_0/kernel"].ndim == 4
