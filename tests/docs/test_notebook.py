"""The notebook: clean, and it runs from its first cell to its last."""

from __future__ import annotations

import ast
import json
import re

import pytest

from .pages import DOCS

NOTEBOOK = DOCS / "notebooks" / "tour.ipynb"


def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_it_is_small_and_holds_no_output():
    assert NOTEBOOK.stat().st_size < 200_000
    for cell in cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            ast.parse("".join(cell["source"]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_runs_and_shows_what_it_says(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    shown = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert sum("image/png" in o.get("data", {}) for o in shown) == 2
    said = [ast.literal_eval(text) for o in shown if (text := o.get("data", {}).get("text/plain", "")).startswith("{")]
    scores, errors, right = said
    assert scores["original, 32x32"] < 30 < 99 < scores["rescaled, 32x32"]
    assert errors["rescaled"] < errors["untouched"]
    assert right["32x32, kernels and guidance"] >= 8 > right["32x32, untouched"]
    assert any(o.get("data", {}).get("text/plain") == "True" for o in shown)
    assert any(
        re.search(r"UpsampleGuidance\(scale=2.*on UNet2DModel", o.get("data", {}).get("text/plain", "")) for o in shown
    )
