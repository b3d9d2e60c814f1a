"""`rekernel verify` on folders of transformers and diffusers, on pickles, and on files in the wrong order."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import rekernel as rk
import rekernel.torch as rkt
from rekernel_cli.main import main

MODELS = """
import torch
from torch import nn

def vit():
    from transformers import ViTConfig, ViTForImageClassification
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5))

def unet():
    from diffusers import UNet2DModel
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return UNet2DModel(sample_size=16, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4, **blocks)

def run(model, x):
    return model(x, 10)

def cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4, 3))
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MODELS)
    return tmp_path / "mine.py"


def made(mine, name):
    torch.manual_seed(0)
    space: dict = {}
    exec(mine.read_text(), space)
    return space[name]().eval()


def verify(*arguments):
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def result_of(*arguments):
    result = verify(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_folders_of_transformers_are_compared_by_the_command_that_convert_prints(mine, tmp_path):
    pytest.importorskip("transformers")
    made(mine, "vit").save_pretrained(tmp_path / "vit")
    said = CliRunner().invoke(main, ["convert", str(tmp_path / "vit"), str(tmp_path / "vit-2x"), "--scale", "2"])
    command = next(line for line in said.stdout.splitlines() if line.startswith("rekernel verify"))
    words = command.removesuffix(" compares both.").split()[2:]
    words = [{"MODULE:NAME": f"{mine}:vit", "CxHxW": "3x32x32"}.get(word, word) for word in words]
    found = result_of(*words)
    assert found["error"] < 1e-4 and len(found["layers"]) > 8
    files = tmp_path / "vit" / "model.safetensors", tmp_path / "vit-2x" / "model.safetensors"
    assert result_of(*files, *words[2:])["error"] < 1e-4


def test_a_unet_is_compared_as_a_denoiser_or_as_a_function_runs_it(mine, tmp_path):
    pytest.importorskip("diffusers")
    made(mine, "unet").save_pretrained(tmp_path / "unet")
    rk.convert(tmp_path / "unet", tmp_path / "unet-2x", scale=2, mode="supersample")
    words = tmp_path / "unet", tmp_path / "unet-2x"
    found = result_of(*words)
    assert (found["size"], found["new_size"], len(found["times"])) == ([16, 16], [32, 32], 4)
    assert found["notes"][0].startswith("no scheduler lies beside the network: a linear schedule")
    with_code = result_of(*words, "--model", f"{mine}:unet", "--input", "3x16x16", "--timesteps", "500")
    assert [at["t"] for at in with_code["times"]] == [500]
    found = result_of(*words, "--forward", f"{mine}:run")
    assert found["new_size"] == [32, 32] and found["error"] > 0 and found["strided"]
    assert "--forward nothing" in verify(*words, "--forward", "nothing").stderr


def test_a_pickle_is_read_if_allowed(mine, tmp_path):
    torch.save(made(mine, "cnn").state_dict(), tmp_path / "net.pth")
    rk.convert(tmp_path / "net.pth", tmp_path / "out.safetensors", scale=2, mode="absorb", allow_pickle=True)
    words = tmp_path / "net.pth", tmp_path / "out.safetensors", "--model", f"{mine}:cnn", "--input", "1x16x16"
    assert result_of(*words, "--allow-pickle")["error"] < 1e-4
    assert "--allow-pickle" in verify(*words).stderr


def test_files_in_the_wrong_order_are_called_swapped(mine, tmp_path):
    model = made(mine, "cnn")
    torch.save(model.state_dict(), tmp_path / "net.pth")
    rk.convert(tmp_path / "net.pth", tmp_path / "out.safetensors", scale=2, mode="absorb", allow_pickle=True)
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "in.safetensors")
    more = "--model", f"{mine}:cnn", "--input", "1x16x16"
    old, new = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    assert "are the two swapped?" in verify(new, old, *more).stderr
    assert "was rescaled already" in verify(new, new, *more).stderr
    assert "has no recipe, so rekernel did not rescale it" in verify(old, old, *more).stderr


def test_a_recalibrated_network_asks_for_its_pictures(mine, tmp_path):
    from safetensors.torch import save_file

    model = made(mine, "cnn")
    save_file(model.state_dict(), tmp_path / "in.safetensors")
    larger = rkt.rescale(model, 2, torch.zeros(1, 1, 16, 16))
    rkt.save(larger, tmp_path / "plain.safetensors")
    rkt.recalibrate(larger, torch.rand(8, 1, 32, 32))
    rkt.save(larger, tmp_path / "recalibrated.safetensors")
    more = "--model", f"{mine}:cnn", "--input", "1x16x16"
    assert "other statistics" not in verify(tmp_path / "in.safetensors", tmp_path / "plain.safetensors", *more).stdout
    said = verify(tmp_path / "in.safetensors", tmp_path / "recalibrated.safetensors", *more).stdout
    assert "batch norm has other statistics than in the original; pass --data with" in said


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.bin", "net.ckpt"])
def test_load_says_of_a_pickle_that_it_was_not_rescaled(tmp_path, name):
    model = nn.Conv2d(1, 1, 3)
    torch.save(model.state_dict(), tmp_path / name)
    with pytest.raises(rk.RekernelError, match=r"is a pickle, and rekernel writes safetensors.*convert it first"):
        rkt.load(model, tmp_path / name)
    with pytest.raises(rk.RekernelError, match=r"is a pickle, and rekernel writes safetensors"):
        rkt.load_pretrained(tmp_path / name, model=model)


def test_load_reads_a_pickle_with_a_plan(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.Flatten(), nn.Linear(32, 2))
    larger = rkt.rescale(model, 2, torch.zeros(1, 1, 8, 8))
    torch.save(larger.state_dict(), tmp_path / "net.pth")
    with pytest.raises(rk.RekernelError, match=r"allow_pickle=True"):
        rkt.load(model, tmp_path / "net.pth", plan=larger.rekernel_plan)
    again = rkt.load(model, tmp_path / "net.pth", plan=larger.rekernel_plan, allow_pickle=True)
    assert again[0].kernel_size == (6, 6)


def test_load_and_save_name_arguments_in_the_wrong_order(tmp_path):
    model = nn.Conv2d(1, 1, 3)
    with pytest.raises(rk.RekernelError, match=r"pass the model and then the path of the file: load\(model, path\)"):
        rkt.load(tmp_path / "a.safetensors", model)
    with pytest.raises(rk.RekernelError, match=r"save\(model, path\)"):
        rkt.save("a.safetensors", model)


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.onnx", "a"])
def test_save_refuses_the_ending_of_another_format(tmp_path, name):
    larger = rkt.rescale(nn.Conv2d(1, 1, 3, padding=1), 2, torch.zeros(1, 1, 8, 8), mode="supersample")
    with pytest.raises(rk.RekernelError, match=r"ends in \.safetensors"):
        rkt.save(larger, tmp_path / name)
    assert not list(tmp_path.iterdir())
