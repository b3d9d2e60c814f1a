"""The pages show what the result files of benchmarks/real hold."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT / "benchmarks" / "real"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("real_tables", REAL / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_marked_table_is_made_of_the_result_files(maker):
    made = maker.tables()
    shown = {}
    for page in maker.PAGES:
        for name, body in re.findall(r"<!-- table:([\w-]+) -->\n(.*?)<!-- /table:", page.read_text(), re.DOTALL):
            if name in made:
                shown[name] = body.strip()
    assert shown.keys() == made.keys()
    for name, body in shown.items():
        assert body == made[name], f"{name}: run python benchmarks/real/tables.py"


def test_the_default_loses_no_more_than_the_readme_says():
    worst = json.loads((REAL / "results" / "fashion.json").read_text())["worst"]
    drops = {(r["old"], r["new"], r["below"]): max(r["accuracy"], r["f1"]) for r in worst}
    assert drops[14, 28, "trained size"] <= 0.5
    assert drops[7, 28, "trained size"] <= 0.5
    assert drops[14, 21, "trained size"] <= 1
    assert min(d for (old, _, below), d in drops.items() if old == 28 and below != "trained size") <= 1
    rows = json.loads((REAL / "results" / "efficientnet.json").read_text())["rows"]
    assert next(r["kl"] for r in rows if r["row"] == "default") <= 0.025
