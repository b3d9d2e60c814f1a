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


def test_a_size_given_as_a_scale_names_the_option_for_sizes(run, checkpoint):
    result = run("plan", checkpoint, "--scale", "224")
    assert result.exit_code == 2 and "did you mean --to 224x224?" in result.stderr
    said = run("plan", checkpoint, "--to", "224x224").stderr
    assert "nothing beside the weights tells the trained size" in said and "also pass --from 224x224" in said
    assert len(said.strip().splitlines()) == 1


def test_a_plan_says_which_side_has_which_scale(run, checkpoint):
    by_size = run("plan", checkpoint, "--from", "512", "--to", "1024x768").stdout
    assert "scale 2 in width and 1.5 in height" in by_size
    assert run("plan", checkpoint, "--scale-w", "2", "--scale-h", "1.5").stdout == by_size
    assert "scale 2, " in run("plan", checkpoint, "--from", "512x512", "--to", "1024x1024").stdout


def test_a_grid_of_two_numbers_is_noted_and_the_plan_shows_the_grid(run, checkpoint):
    said = run("plan", checkpoint, "--scale", "2", "--mode", "supersample", "--linear-grid", "fc=16,4,4").stdout
    assert "grid 16x4x4" in said and "is a signal" not in said
    said = run("plan", checkpoint, "--scale", "2", "--mode", "supersample", "--linear-grid", "fc=16,16").stdout
    assert "a grid of 16,16 is a signal" in said and "write 1,16,16" in " ".join(said.split())


def test_an_unknown_preset_names_the_only_one(run, checkpoint):
    assert "; only all is known" in run("plan", checkpoint, "--scale", "2", "--preset", "inner").stderr


def test_overrides_are_called_set(run, checkpoint):
    said = run("plan", checkpoint, "--scale", "2", "--set", "conv9:method=cubic").stderr
    assert said.startswith("Error: --set: pattern conv9 matches no tensor")


def test_text_is_not_called_a_header_that_is_too_long(run, tmp_path):
    path = tmp_path / "text.safetensors"
    path.write_text("hello, this is text and no checkpoint")
    assert f"{path}: is not a safetensors file" in run("inspect", path).stderr


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
