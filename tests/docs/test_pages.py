"""The site's other pages: the front page runs, the FAQ runs and cites, and what they show is in the navigation."""

from __future__ import annotations

import doctest
import importlib
import re

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from rekernel_cli.main import main

from .pages import DOCS, HOW_TO, ROOT, blocks


def test_the_front_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 4, 3, 3)).astype(np.float32)
    layers = ("conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2")
    save_file({f"{layer}.weight": w for layer in layers}, "resnet.safetensors")
    names = {}
    ran = []
    for block in blocks(DOCS / "index.md"):
        if not block.runs:
            continue
        if block.language == "python":
            exec(block.text, names)
        for program, *arguments in block.commands():
            if program == "rekernel":
                result = CliRunner().invoke(main, arguments)
                assert result.exit_code == 0, result.output + result.stderr
                ran.append(arguments[0])
    assert ran == ["plan", "convert", "inspect"]
    assert names["w2"].shape == (8, 4, 5, 5) and names["report"].tensors_changed == 1


@pytest.mark.filterwarnings("ignore")
def test_every_answer_that_can_run_does():
    results = doctest.testfile(str(DOCS / "faq.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted >= 28
    assert results.failed == 0


def test_every_question_names_the_thread_it_comes_from():
    text = (DOCS / "faq.md").read_text(encoding="utf-8")
    answers = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert len(answers) >= 20
    for answer in answers:
        assert re.search(r"^\*[\w.-]+/[\w.-]+ #\d+", answer, re.MULTILINE), answer.splitlines()[0]


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert {f"how-to/{page}.md" for page in HOW_TO} <= listed


@pytest.mark.parametrize("module", ["rekernel", "rekernel.torch", "rekernel.diffusion", "rekernel.hub"])
def test_every_public_name_is_in_the_reference(module):
    pytest.importorskip("torch")
    page = (DOCS / "api" / f"{module.rpartition('.')[2]}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: [\w.]+\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(set(importlib.import_module(module).__all__) - {"__version__"})


def test_the_map_of_the_source_names_files_and_levels_that_exist():
    page = (DOCS / "source.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:src|cli|tests)/[^`]*)`", page)
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists(), path
    rows = re.findall(r"^\| \d \| (.*) \|$", page, flags=re.MULTILINE)
    named = {name.strip("/").removesuffix(".py") for row in rows for name in re.findall(r"`([^`]*)`", row)}
    assert named == {path.name.removesuffix(".py") for path in (ROOT / "src" / "rekernel").iterdir()} - {
        "__init__", "__pycache__", "py.typed"
    }  # fmt: skip
