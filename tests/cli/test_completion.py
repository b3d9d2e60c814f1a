"""Completion of values, as bash asks for it: words split at = and :, and what is printed replaces the last of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
UNET = {
    "conv_in.weight": (8, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
    "mid_block.resnets.0.conv1.weight": (8, 8, 3, 3), "up_blocks.0.resnets.0.conv1.weight": (8, 16, 3, 3),
    "conv_out.weight": (4, 8, 3, 3), "time_embedding.linear_1.weight": (8, 8),
}  # fmt: skip


BASH = [
    ("pl", ["plan"]),
    ("plan x --meth", ["--method"]),
    ("plan x --method pinv-", ["pinv-nearest", "pinv-linear", "pinv-cubic"]),
    ("plan x --reading-filter opt", ["optimal"]),
    ("plan x --gain ", ["dc", "ratio", "none"]),
    ("plan x --taps ", ["full", "same-extent"]),
    ("plan x --mode su", ["supersample"]),
    ("plan unet.safetensors --mode conv_in=a", ["auto", "absorb"]),
    ("plan unet.safetensors --mode conv_", ["conv_in=", "conv_out="]),
    ("plan unet.safetensors --stride conv_i", ["conv_in="]),
    ("plan unet.safetensors --include mid", ["mid_block.resnets.0.conv1"]),
    ("plan 'my net.safetensors' --exclude ", ["a"]),
    ("plan unet.safetensors --preset ", ["all", "inner"]),
    ("plan sd --component v", ["vae"]),
    ("plan sd --preset i", ["inner"]),
    ("plan broken.safetensors --preset i", ["inner"]),
    ("plan broken.safetensors --include ", []),
    ("plan x --order fc=channels-f", ["channels-first"]),
    ("plan x --layout OH", ["OHWI"]),
    ("plan x --set conv1:me", ["method="]),
    ("plan x --set conv1:method=cu", ["cubic"]),
    ("plan x --set conv1:method=cubic,ta", ["cubic,taps="]),
    ("convert a b --dtype B", ["BF16"]),
    ("convert a b --guidance th", ["theta="]),
    ("convert a b --guidance theta=1,e", ["1,eta=", "1,enlarge="]),
    ("convert a b --guidance kernels=s", ["switched"]),
    ("convert a b --guidance positions=y", ["yarn"]),
    ("sample x --guidance u", ["upsample"]),
    ("sample x --guidance upsample,th", ["upsample,theta="]),
    ("sample x --kernels opt", ["optimal", "optimal-filter"]),
    ("sample x --kernels no", ["none"]),
    ("sample x --positions n", ["ntk", "none"]),
    ("sample x --layers ", ["inner", "all"]),
    ("sample x --cascade n", ["none"]),
]
ZSH = [
    ("convert a b --guidance theta=1,e", ["theta=1,eta=", "theta=1,enlarge="]),
    ("plan unet.safetensors --mode conv_in=ab", ["conv_in=absorb"]),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("completion")
    tensors = {name: np.ones(shape, np.float32) for name, shape in UNET.items()}
    save_file(tensors, root / "unet.safetensors")
    save_file({"a.weight": np.ones((4, 4, 3, 3), np.float32)}, root / "my net.safetensors")
    for part in ("unet", "vae"):
        (root / "sd" / part).mkdir(parents=True)
        save_file(tensors, root / "sd" / part / "diffusion_pytorch_model.safetensors")
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (root / "sd" / "model_index.json").write_text(json.dumps({"_class_name": "P", **parts}))
    (root / "broken.safetensors").write_bytes(b"nothing")
    return root


DRIVER = """
import contextlib, io, json, os, sys
from rekernel_cli.main import main
answers = []
for words, at, shell in json.load(sys.stdin):
    os.environ.update(COMP_WORDS=words, COMP_CWORD=str(at), _REKERNEL_COMPLETE=f"{shell}_complete")
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)  # click writes bytes
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(prog_name="rekernel")
    answers.append(out.buffer.getvalue().decode())
json.dump(answers, sys.stdout)
"""


def request(line: str, shell: str) -> tuple[str, int, str]:
    """What the shell passes on where the cursor stands at the end of `line`."""
    word = r"'[^']*'|[=:]|[^\s=:']+" if shell == "bash" else r"'[^']*'|\S+"  # COMP_WORDBREAKS of bash; quotes bind
    words = re.findall(word, line)
    return " ".join(words), len(words) - (not line.endswith(" ")), shell


@pytest.fixture(scope="module")
def answers(place: Path) -> dict[str, list[str]]:
    """The answers of the program, which runs once for all lines."""
    asked = [*((f"rekernel {line}", "bash") for line, _ in BASH), *((f"rekernel {line}", "zsh") for line, _ in ZSH)]
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'cli'}", "_REKERNEL_COMPLETE": "bash_complete",
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps([request(*each) for each in asked]),
        capture_output=True, text=True, env=environment, cwd=place, check=False,
    )  # fmt: skip
    assert ran.stderr == ""
    found = {}
    for (line, shell), said in zip(asked, json.loads(ran.stdout), strict=True):
        lines = [each for each in said.splitlines() if each]
        found[f"{shell}: {line}"] = lines[1::3] if shell == "zsh" else [each.split(",", 1)[1] for each in lines]
    return found


@pytest.mark.parametrize(("line", "expected"), BASH, ids=[line for line, _ in BASH])
def test_bash_is_offered_what_may_follow(answers: dict[str, list[str]], line: str, expected: list[str]) -> None:
    assert answers[f"bash: rekernel {line}"] == expected


@pytest.mark.parametrize(("line", "expected"), ZSH, ids=[line for line, _ in ZSH])
def test_zsh_is_offered_whole_words(answers: dict[str, list[str]], line: str, expected: list[str]) -> None:
    assert answers[f"zsh: rekernel {line}"] == expected
