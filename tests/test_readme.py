"""The README as a stranger would use it: its commands and its Python, run in a folder with a small UNet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.fixture
def folder(tmp_path):
    """A ResNet of torchvision's key names, small."""
    rng = np.random.default_rng(0)

    def conv(out, inputs, k=3):
        return rng.normal(size=(out, inputs, k, k)).astype(np.float32)

    tensors = {"conv1.weight": conv(8, 3, 7), "fc.weight": conv(10, 16, 1)[:, :, 0, 0]}
    for stage, inputs, out in ((1, 8, 8), (2, 8, 16)):
        tensors[f"layer{stage}.0.conv1.weight"] = conv(out, inputs)
        tensors[f"layer{stage}.0.conv2.weight"] = conv(out, out)
    tensors["layer2.0.downsample.0.weight"] = conv(16, 8, 1)
    for name in [name for name in tensors if "conv" in name]:
        norm = name.replace("conv", "bn").removesuffix(".weight")
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{part}"] = np.ones(len(tensors[name]), np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "resnet.safetensors")
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_commands_and_python_run_one_after_the_other(folder, monkeypatch):
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ rekernel")]
    assert [command.split()[1] for command in commands] == ["inspect", "plan", "convert"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        run = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert run.stdout
    converted = folder / "resnet-2x.safetensors"
    assert safetensors.numpy.load_file(converted)["conv1.weight"].shape == (8, 3, 14, 14)

    monkeypatch.chdir(folder)
    names = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["w2"].shape[:2] == (8, 3) and names["report"].tensors_changed == 1
    assert (folder / "resnet-py.safetensors").read_bytes() == converted.read_bytes()


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (Path(__file__).parents[1] / target).exists(), target


def test_the_first_screen_shows_what_one_gets_and_the_command_that_needs_nothing():
    first = README[: README.index("## ")]
    assert first.index("![") < first.index("```console") < first.index("<!-- table:headline -->")
    assert "$ pip install '.[torch]' && rekernel demo" in first
    assert len(README.splitlines()) < 200


def test_every_word_of_the_sampling_table_is_explained_below_it():
    table, _, below = README.partition("<!-- table:readme-cascade -->")[2].partition("<!-- /table:readme-cascade -->")
    explained = {word.lower() for word in re.findall(r"\*([A-Z][^*]+)\*:", below)}
    head, _, *rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.split("\n") if line]
    plain = {"sampled at 32x32", "shows one digit", "enlarged bicubically"}
    assert {*head, *(row[0] for row in rows)} - plain == explained
