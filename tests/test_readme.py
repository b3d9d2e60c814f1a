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
    """A UNet of diffusers' key names, small."""
    rng = np.random.default_rng(0)

    def conv(out, inputs, k=3):
        return rng.normal(size=(out, inputs, k, k)).astype(np.float32)

    tensors = {
        "conv_in.weight": conv(8, 4),
        "time_embedding.linear_1.weight": conv(8, 8, 1)[:, :, 0, 0],
        "down_blocks.0.resnets.0.conv1.weight": conv(8, 8),
        "down_blocks.0.downsamplers.0.conv.weight": conv(8, 8),
        "down_blocks.1.resnets.0.conv1.weight": conv(16, 8),
        "mid_block.resnets.0.conv1.weight": conv(16, 16),
        "up_blocks.0.resnets.0.conv1.weight": conv(16, 32),
        "up_blocks.0.upsamplers.0.conv.weight": conv(16, 16),
        "up_blocks.1.resnets.0.conv1.weight": conv(8, 16),
        "conv_out.weight": conv(4, 8),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "unet.safetensors")
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_commands_run(folder):
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ rekernel")]
    assert [command.split()[1] for command in commands] == ["inspect", "plan", "convert"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        run = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert run.stdout
    assert safetensors.numpy.load_file(folder / "unet-2x.safetensors")["mid_block.resnets.0.conv1.weight"].shape[
        2:
    ] == (5, 5)


def test_the_python_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {"w": np.ones((8, 4, 3, 3), np.float32)}
    for block in blocks("python"):
        exec(block, names)
    assert names["w2"].shape == (8, 4, 5, 5)
    assert names["report"].tensors_changed == 5


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
