"""The mutants: which tests run a line, and that the stored result keeps its bar with a reason for every survivor."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from covering import tests_of as covering_tests

HERE = Path(__file__).parents[2] / "benchmarks" / "mutants"
MODULE = """LIMIT = 3


def first(
    x=1,
):
    return (
        x
        + LIMIT
    )


def second():
    return 2
"""
COVERED = {"m.py": {"8": ["a"], "9": ["b"], "14": ["c"]}, "other.py": {"1": ["d"]}, "far/m.py": {"1": ["e"]}}


def test_a_line_is_run_by_the_tests_of_its_statement_a_signature_by_those_of_its_function(tmp_path):
    (tmp_path / "m.py").write_text(MODULE)
    of_line = {line: covering_tests(tmp_path, "m.py", line, COVERED) for line in (1, 5, 7, 9, 14)}
    assert of_line == {1: ["a", "b", "c", "d"], 5: ["a", "b"], 7: ["a", "b"], 9: ["a", "b"], 14: ["c"]}


def test_every_survivor_of_the_stored_result_has_a_reason_and_the_others_keep_the_bar():
    result = json.loads((HERE / "results" / "mutants.json").read_text())
    reasons = tomllib.loads((HERE / "survivors.toml").read_text())
    alive = {row["name"] for row in result["mutants"] if row["killed by"] is None}
    assert result["count"] == len({row["name"] for row in result["mutants"]}) == 300
    assert alive == reasons["equivalent"].keys() | reasons["alive"].keys()
    assert (300 - len(alive)) / (300 - len(reasons["equivalent"])) >= 0.92
