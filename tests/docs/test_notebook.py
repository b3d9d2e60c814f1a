"""The notebook: small, with its outputs, and it runs from its first cell to its last."""

from __future__ import annotations

import ast
import importlib.util
import json
import re

import pytest

from .pages import DOCS, ROOT

NOTEBOOK = DOCS / "notebooks" / "tour.ipynb"


def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def outputs(cells):
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def shown(cells):
    """The values that the cells end in, as text."""
    return ["".join(o["data"]["text/plain"]) for o in outputs(cells) if o["output_type"] == "execute_result"]


def test_it_is_small_and_shows_what_it_does():
    assert NOTEBOOK.stat().st_size < 200_000
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        ast.parse("".join(cell["source"]))
    assert {output["output_type"] for output in outputs(code)} == {"execute_result", "display_data"}
    assert sum("image/png" in output["data"] for output in outputs(code)) == 2


def test_its_outputs_name_no_folder_of_a_machine():
    assert [text for text in shown(cells()) if re.search(r"/(work|home|tmp|root|Users)/", text)] == []
    assert not re.search(r"site-packages|/root/|/home/", json.dumps(outputs(cells())))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_runs_and_shows_what_it_says():
    pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "tools" / "run_notebook.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    fresh = tool.ran(NOTEBOOK).cells
    assert sum("image/png" in output.get("data", {}) for output in outputs(fresh)) == 2
    for texts in (shown(fresh), shown(cells())):
        scores, errors, right = [ast.literal_eval(text) for text in texts if text.startswith("{")]
        assert scores["original, 32x32"] < 30 < 99 < scores["rescaled, 32x32"]
        assert errors["rescaled"] < errors["untouched"]
        assert min(right["32x32, guidance"], right["32x32, guided cascade"]) >= 9 > right["32x32, untouched"]
        assert "True" in texts
        assert any(re.search(r"Attached\(guidance: theta 1\.5, .*GuidedCascade\(GlyphPipeline", text) for text in texts)
