"""Every reader is fuzzed for REKERNEL_FUZZ_SECONDS, or a minute; `make fuzz` does so for as long as asked."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .engine import TARGETS
from .inputs import ODD, Choices, document_bytes, mutated, places

ROOT = Path(__file__).parents[2]
NEEDS = {"onnx": "onnx", "pickle": "torch", "record": "torch", "hub": "huggingface_hub"}
SECONDS = float(os.environ.get("REKERNEL_FUZZ_SECONDS", "60"))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_gives_anything_but_a_result_or_one_line(target, tmp_path):
    pytest.importorskip("resource")
    pytest.importorskip(NEEDS.get(target, "numpy"))
    paths = [ROOT / "src", ROOT / "cli", ROOT, *([Path(p)] if (p := os.environ.get("REKERNEL_FUZZ_PACKAGES")) else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.fuzz.engine", target, str(SECONDS), str(tmp_path)]
    ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS + 300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "inputs with" in ran.stdout


def test_a_bug_in_a_reader_is_found_saved_and_told(tmp_path):
    code = (
        "import sys, rekernel.conversion.journal as journal\n"
        "def read(self): raise KeyError('planted')\n"
        "journal.Journal.read = read\n"
        "from tests.fuzz.engine import main\n"
        "sys.modules['atheris'] = None\n"
        f"sys.argv = ['fuzz', 'journal', '1', {str(tmp_path)!r}]\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT / "cli", ROOT)))}
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1 and "journal: KeyError at" in ran.stdout and "1 failed" in ran.stdout
    saved = [*(tmp_path / "journal").glob("*.bin")]
    assert len(saved) == 1 and "planted" in saved[0].with_suffix(".txt").read_text()


def test_mutations_reach_every_field_and_leave_the_document_alone():
    document = {"a": [1, {"b": 2}], "c": "text"}
    before = repr(document)
    replaced = [mutated(document, Choices(bytes([0, place, 0, len(ODD) - 1]))) for place in range(5)]
    assert repr(document) == before
    assert len({repr(each) for each in replaced}) == len(places(document)) == 5


def test_bytes_of_an_engine_may_be_the_text_itself():
    assert document_bytes({}, b"\0raw") == b"raw"


def test_hypothesis_or_atheris_is_there():
    assert find_spec("atheris") or find_spec("hypothesis")
