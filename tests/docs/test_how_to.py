"""The how-tos, followed from top to bottom: each command and each block of Python, on small files."""

from __future__ import annotations

import ast
import importlib
import os
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rekernel_cli.main import main

from ..workers.models import contents
from .pages import DOCS, HOW_TO, blocks

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
torch = pytest.importorskip("torch")

from .makers import MAKERS  # noqa: E402 - after torch is known to be there

SLOW = {"frameworks", "lora", "stable-diffusion", "video"}  # they import diffusers' pipelines, Keras and JAX
SMALLER = (
    (r"\b512\b", "16"), (r"\b1024\b", "32"), (r"\b1536\b", "48"),
    (r"\b224\b", "32"), (r"\b448\b", "64"),
    (r"\bnum_inference_steps(=|\": )20\b", r"num_inference_steps\g<1>2"),
    (r"--steps 20\b", "--steps 2"),
)  # fmt: skip
"""Sizes and steps of the pages, in those of the makers' pipelines."""
OTHERS = {
    "many-workers": {"--array", "--dependency", "--wrap"},
    "several-processes": {"--cpu", "--nproc-per-node", "--num", "--shard"},
}
"""Options of other programs, by page: sbatch, accelerate and torchrun; `--num_processes` up to its underscore."""
PAGES = pytest.mark.parametrize("page", HOW_TO)


def options_by_command():
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} for name, command in found.items()}


def smaller(text: str) -> str:
    for pattern, instead in SMALLER:
        text = re.sub(pattern, instead, text)
    return text


def checked_classifier(names):
    assert names["logits"].shape == (1, 3)
    image = torch.ones(1, 3, 64, 64)
    assert torch.equal(names["again"](image).logits, names["larger"](image).logits)


def checked_vit(names):
    assert (names["finer"].config.image_size, names["finer"].config.patch_size) == (64, 8)
    assert names["absorbed"].vit.embeddings.patch_embeddings.projection.stride == (16, 16)
    assert names["both"].vit.embeddings.patch_embeddings.projection.stride == (8, 8)


def checked_segmentation(names):
    image = torch.zeros(1, 3, 64, 64)
    sides = [names[name](image).logits.shape[-1] for name in ("same_map", "large_map", "again")]
    assert sides == [8, 16, 16]
    error = names["rkt"].equivariance_error
    model, x = names["model"], names["x"]
    assert error(model, names["larger"], x) < error(model, model, x, size=(32, 32))


def checked_several_processes(names):
    names["dist"].destroy_process_group()
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"):
        del os.environ[name]
    parameters = list(names["model"].parameters())
    assert all(type(parameter).__name__ == "DTensor" for parameter in parameters)
    again = names["rkt"].load(names["AutoModelForImageClassification"].from_pretrained("resnet"), "tuned.safetensors")
    tuned = [parameter.to_local() for parameter in parameters]  # a single process has all
    assert all(torch.equal(mine, its) for mine, its in zip(tuned, again.parameters(), strict=True))


def checked_stable_diffusion(names):
    assert names["image"].size == (32, 32) and names["tall"].size == (32, 48)
    assert {names[name].size for name in ("large", "again", "recorded")} == {(32, 32)}
    with torch.no_grad():  # switched off in place: the picture is another one
        names["pipe"].rekernel.guidance.enable()
        noise = {**names["noise"], "generator": torch.Generator().manual_seed(0)}
        assert names["pipe"]("a lighthouse", **noise).images[0].tobytes() != names["before"].tobytes()


def checked_lora(names):
    assert names["image"].size == (32, 32)
    layer = names["pipe"].unet.mid_block.resnets[0].conv1
    assert [next(iter(a.values())).kernel_size for a in (layer.lora_A, layer.lora_B)] == [(5, 5), (1, 1)]


def checked_video(names):
    assert [frame.size for frame in names["sharper"]] == [(32, 32)] * 8
    assert names["wider"].shape == (8, 4, 3, 5, 5)
    assert names["larger"][2].kernel_size == (3, 6, 6)
    for clip in (names["frames"], names["longer"]):
        assert [picture.size for picture in clip] == [(32, 32)] * 8


def checked_frameworks(names):
    assert names["larger"]["params"]["Conv_1"]["kernel"].shape == (5, 5, 8, 4)
    assert sorted(w.shape for w in names["new"].values() if w.ndim > 1) == [(5, 5, 8, 4), (7, 7, 3, 8)]
    assert names["answer"][0].shape == (1, 4, 32, 32)


def checked_object_stores(names):
    [stored] = names["report"].sizes
    assert stored == names["fsspec"].filesystem("memory").size("/models/cnn-2x.safetensors")


def checked_many_workers(names):
    names["rekernel"].convert("unet", "alone", scale=2)
    assert contents(Path("unet-2x")) == contents(Path("unet-parts")) == contents(Path("unet-jobs"))
    assert contents(Path("alone")) == contents(Path("unet-jobs"))


CHECKS = {
    "classifier": checked_classifier, "comfyui": lambda names: None, "frameworks": checked_frameworks,
    "lora": checked_lora, "many-workers": checked_many_workers, "object-stores": checked_object_stores,
    "segmentation": checked_segmentation,
    "several-processes": checked_several_processes, "stable-diffusion": checked_stable_diffusion,
    "video": checked_video, "vit": checked_vit,
}  # fmt: skip


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] if p in SLOW else []) for p in HOW_TO])
@pytest.mark.filterwarnings("ignore")
def test_a_reader_gets_through_the_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    names = {"__name__": "__main__", **MAKERS[page]()}
    for block in blocks(DOCS / "how-to" / f"{page}.md"):
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(smaller(block.text), f"{page}.md", "exec"), names)
            continue
        for program, *arguments in block.commands():
            assert program == "rekernel"
            result = CliRunner().invoke(main, [smaller(argument) for argument in arguments])
            assert result.exit_code == 0, f"{arguments}\n{result.output}{result.stderr}"
    CHECKS[page](names)


def test_every_page_is_followed():
    assert set(HOW_TO) == set(MAKERS) == set(CHECKS)


@PAGES
def test_commands_name_options_that_exist(page):
    """Those of every block, and those in running text: `--set '...'`."""
    commands = options_by_command()
    text = (DOCS / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - OTHERS.get(page, set())
    assert named <= set().union(*commands.values())
    for block in blocks(DOCS / "how-to" / f"{page}.md"):
        for program, *arguments in block.commands():
            if program == "rekernel":
                assert {a for a in arguments if a.startswith("--")} <= commands[arguments[0]], arguments


@PAGES
def test_python_imports_names_that_exist(page):
    for block in blocks(DOCS / "how-to" / f"{page}.md"):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rekernel"):
                module = importlib.import_module(node.module)
                assert {alias.name for alias in node.names} <= set(module.__all__)
