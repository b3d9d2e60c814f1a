"""Small real checkpoints, and ways to run the command: in this process, and as a program of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

from rekernel_cli.main import main

ROOT = Path(__file__).parents[2]
HOSTILE = ("a\x1b[31mred\nline.weight", "[red]bold[/red].weight", "b\u202eidi:=x.weight", ":boom:\u200b.weight")

Run = Callable[..., Result]
Program = Callable[..., "subprocess.CompletedProcess[str]"]


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "conv1.weight": (8, 3, 3, 3),
        "conv1.bias": (8,),
        "conv2.weight": (16, 8, 3, 3),
        "point.weight": (16, 16, 1, 1),
        "fc.weight": (10, 16 * 4 * 4),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "in.safetensors"
    save_file(weights(), path, metadata={"format": "pt", "note": "[red]x"})
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "hostile.safetensors"
    save_file({name: np.ones((4, 3, 3, 3), np.float32) for name in HOSTILE}, path, metadata={"k\x1b[2J": "v\u202e[b]"})
    return path


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "pipe"
    for name in ("unet", "vae"):
        (folder / name).mkdir(parents=True)
        save_file(weights(), folder / name / "diffusion_pytorch_model.safetensors")
        (folder / name / "config.json").write_text("{}")
    index = {"_class_name": "P", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def run() -> Run:
    """`rekernel ...` in this process; `result.stdout` and `result.stderr` are apart."""

    def invoke(*args: object, **settings: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="rekernel", **settings)

    return invoke


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """`rekernel ...` as a process of its own, in the test's folder."""

    def start(*args: object, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "rekernel_cli", *map(str, args)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'cli'}", **(env or {})},
            check=False,
        )

    return start
