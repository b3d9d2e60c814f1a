"""Inputs that gave a traceback, a hang, a memory blow-up or a raw escape once: each is read, or refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INPUTS = Path(__file__).parent / "inputs"
LIMITS = {"header": 2048, "plan": 2048, "recipe": 2048, "lora": 2048, "onnx": 3072, "cli": 3072, "pickle": 8192,
          "guidance": 8192}  # fmt: skip
"""Megabytes of addresses. torch alone reserves several gigabytes; the inputs have at most eight kilobytes."""
NEEDS = {"onnx": "onnx", "pickle": "torch", "guidance": "torch"}
SECONDS = 240  # for all inputs of a limit, on a busy machine; they take a few seconds on an idle one


@pytest.fixture(scope="module")
def outcomes():
    """What is wrong with each input, by name; the inputs of one limit share a process."""
    pytest.importorskip("resource")
    found = {}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT / "cli", ROOT)))}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    for limit in sorted(set(LIMITS.values())):
        readers = [r for r, most in LIMITS.items() if most == limit and find_spec(NEEDS.get(r, "numpy")) is not None]
        words = [sys.executable, "-m", "tests.hostile.feed", str(limit), *readers]
        ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
        assert ran.returncode == 0, ran.stderr
        for line in ran.stdout.splitlines():
            outcome = json.loads(line)
            found[outcome["input"]] = outcome["wrong"]
    return found


@pytest.mark.parametrize("path", sorted(INPUTS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_input_that_broke_a_reader_is_read_or_refused_in_one_line(path, outcomes):
    if (needed := NEEDS.get(path.parent.name)) is not None:
        pytest.importorskip(needed)
    assert outcomes[f"{path.parent.name}/{path.name}"] == ""
