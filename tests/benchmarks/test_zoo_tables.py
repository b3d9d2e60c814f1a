"""docs/architectures.md shows what the result file of benchmarks/zoo holds, and the file holds no failure."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from measure import FAINT, silent

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "benchmarks" / "zoo"
RESULTS = json.loads((ZOO / "results" / "zoo.json").read_text())
MODES = ("default", "supersample")


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("zoo_tables", ZOO / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_made_of_the_result_file(maker):
    text = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    shown = {
        name: body.strip() for name, body in re.findall(r"<!-- table:([\w-]+) -->\n(.*?)<!-- /table:", text, re.DOTALL)
    }
    made = maker.tables(RESULTS)
    assert shown.keys() == made.keys()
    for name, body in shown.items():
        assert body == made[name], f"{name}: run python benchmarks/zoo/tables.py"


def test_no_architecture_crashes_or_fails_silently():
    crashed = [(row["name"], mode) for row in RESULTS["rows"] for mode in MODES if row[mode]["outcome"] == "crash"]
    wrong = [(row["name"], mode) for row in RESULTS["rows"] for mode in MODES if silent(row, mode)]
    assert not crashed
    assert not wrong


def test_the_zoos_are_large_enough_to_mean_something():
    names = [row["name"] for row in RESULTS["rows"]]
    assert len(names) == len(set(names))
    assert len(names) >= 150
    assert {row["zoo"] for row in RESULTS["rows"]} >= {"transformers", "diffusers", "torchvision"}


def test_every_network_answers_differently_to_different_pictures():
    assert [row["name"] for row in RESULTS["rows"] if row["contrast"] < FAINT] == []


def test_a_reason_is_written_once_and_named_by_its_number(maker):
    refused = {"outcome": "refused", "message": "conv: has no output\nsecond line"}
    row = {
        "name": "zoo/net",
        "zoo": "zoo",
        "input": [3, 8, 8],
        "moved": 0.5,
        "default": refused,
        "supersample": refused,
    }
    assert maker.one_zoo([row, row]).count("conv: has no output") == 1
    assert maker.one_zoo([row]).count("refused (1)") == 2
