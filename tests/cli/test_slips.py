"""Slips on the command line: each is named, with the name that was meant, in the words of the command."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.mark.parametrize(("typed", "meant"), [("pln", "plan"), ("covert", "convert"), ("verfy", "verify")])
def test_a_command_that_is_near_is_suggested(run, typed, meant):
    result = run(typed, "x")
    assert result.exit_code == 2 and f"No such command '{typed}'; did you mean {meant}?" in result.stderr


def test_a_command_that_is_near_none_lists_them(run):
    assert "the commands are inspect, plan, convert" in run("zzz").stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("conv2*:metod=cubic", "'metod' is not a setting; did you mean method?"),
        ("conv2*:tap=3", "'tap' is not a setting; did you mean taps?"),
        ("conv2*:zz=3", "'zz' is not a setting; it is one of scale, method"),
    ],
)
def test_a_setting_is_named(run, checkpoint, text, words):
    result = run("plan", checkpoint, "--scale", "2", "--set", text)
    assert result.exit_code == 2 and words in " ".join(result.stderr.split())


def test_a_size_given_as_a_scale_names_the_options_for_sizes(run, checkpoint):
    said = run("plan", checkpoint, "--scale", "224").stderr
    assert "64 is the limit" in said and "or --from 32x32 --to 224x224" in said
    assert len(said.strip().splitlines()) == 1


def test_an_unknown_preset_names_the_only_one(run, checkpoint):
    assert "; only all is known" in run("plan", checkpoint, "--scale", "2", "--preset", "inner").stderr


def test_overrides_are_called_set(run, checkpoint):
    said = run("plan", checkpoint, "--scale", "2", "--set", "conv9:method=cubic").stderr
    assert said.startswith("Error: --set: pattern conv9 matches no tensor")


def test_text_is_not_called_a_header_that_is_too_long(run, tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_text("hello, this is text and no checkpoint")
    assert f"{path}: not a safetensors file: " in run("inspect", path).stderr


def test_torchscript_is_called_what_it_is(run, tmp_path, recwarn):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3))
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 1, 8, 8)), str(tmp_path / "net.pt"))
    recwarn.clear()
    said = run("plan", tmp_path / "net.pt", "--scale", "2", "--allow-pickle").stderr
    assert "a TorchScript archive, which is a program; save the state_dict" in said and not recwarn.list
    torch.save(model.state_dict(), tmp_path / "net.pth")
    assert run("plan", tmp_path / "net.pth", "--scale", "2", "--allow-pickle").exit_code == 0


def test_the_module_runs_as_the_command():
    ran = subprocess.run([sys.executable, "-m", "rekernel", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("rekernel ")


def test_plans_name_the_layers_whose_geometry_changes(run, tmp_path):
    shapes = {f"layer{i}.weight": (4, 4, 3, 3) for i in range(5)} | {"deep.weight": (4, 4, 5, 5)}
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "net.safetensors")
    said = run("plan", tmp_path / "net.safetensors", "--scale", "2", "--mode", "supersample").stdout
    listed = said.split("Layers, before -> after:")[1]
    assert ": layer0, layer1, layer2 and 2 more" in listed and ": deep" in listed
