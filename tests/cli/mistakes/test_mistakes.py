"""About 250 mistakes through the real command: the exit code, a short answer, and a fix that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from rekernel_cli.main import main

from .materials import write_all, write_onnx
from .table import MISTAKES

MOST_LINES = 6
FOREIGN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::rekernel.RekernelWarning")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    pytest.importorskip("onnx")
    root = tmp_path_factory.mktemp("mistakes")
    write_all(root)
    write_onnx(root)
    return root


def test_there_are_two_hundred() -> None:
    typed = [line for line, _, _ in MISTAKES]
    assert len(set(typed)) == len(typed) >= 200


@pytest.mark.parametrize(("typed", "code", "fix"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_is_answered_in_few_lines_that_name_a_fix(
    place: Path, monkeypatch: pytest.MonkeyPatch, typed: str, code: int, fix: str
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1 before the first import
    result = CliRunner(env={"COLUMNS": "100"}).invoke(main, shlex.split(typed), prog_name="rekernel")
    said = result.stderr if code else result.stdout + result.stderr
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit | None), repr(result.exception)  # anything else is a traceback
    assert not code or result.stdout == ""
    assert len(result.stderr.splitlines()) <= MOST_LINES, result.stderr
    assert re.search(fix, " ".join(said.split())), said
    assert not FOREIGN.search(said) and "Traceback" not in said
    assert str(place) not in said.replace(f"to {place / 'net.safetensors'}", "")  # a link's target
    assert not (place / "o").exists() and not (place / "o.safetensors").exists()
