"""Write the tables of docs/architectures.md out of results/zoo.json.

    python benchmarks/zoo/tables.py

Rewrites what stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`. tests/benchmarks/test_zoo_tables.py
compares the page with the result file.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(Path(__file__).resolve().parents[1]))

from marked_tables import markdown, rewrite  # noqa: E402 - beside this folder

RESULTS = HERE / "results" / "zoo.json"
PAGE = HERE.parents[1] / "docs" / "architectures.md"
MODES = ("default", "supersample")
OUTCOMES = ("exact", "approximate", "refused", "crash")
LONGEST = 300
"""Characters of a reason; the rest of a message is left out."""

Row = dict[str, Any]


def main() -> None:
    """Rewrite the tables of the page."""
    rewrite([PAGE], tables(json.loads(RESULTS.read_text())))


def tables(results: Row) -> dict[str, str]:
    """Every table by name: `zoo`, the counts, and `zoo-NAME` for each zoo, with its reasons below."""
    zoos = list(dict.fromkeys(row["zoo"] for row in results["rows"]))
    made = {"zoo": summary(results["rows"], zoos)}
    return made | {f"zoo-{zoo}": one_zoo([row for row in results["rows"] if row["zoo"] == zoo]) for zoo in zoos}


def summary(rows: list[Row], zoos: list[str]) -> str:
    """How many architectures of each zoo have which outcome."""
    outcomes = [o for o in OUTCOMES if any(row[mode]["outcome"] == o for row in rows for mode in MODES)]
    lines = []
    for name, of in [*((zoo, [row for row in rows if row["zoo"] == zoo]) for zoo in zoos), ("**all**", rows)]:
        counts = [sum(row[mode]["outcome"] == outcome for row in of) for mode in MODES for outcome in outcomes]
        lines.append([name, str(len(of)), *map(str, counts)])
    head = ["zoo", "architectures", *(f"{mode}: {outcome}" for mode in MODES for outcome in outcomes)]
    return markdown(head, lines)


def one_zoo(rows: list[Row]) -> str:
    """A row for each architecture, and the reasons of refusals below, each said once."""
    reasons: dict[str, int] = {}
    lines = []
    for row in rows:
        size = "x".join(map(str, row["input"]))
        cells = [cell(row[mode], reasons) for mode in MODES]
        lines.append([row["name"].partition("/")[2], size, *cells, percent(row["moved"])])
    table = markdown(["architecture", "input", "default", '`mode="supersample"`', "original, moved"], lines)
    told = "\n".join(f"{number}. {plain(reason)}" for reason, number in reasons.items())
    return f"{table}\n\nReasons:\n\n{told}" if told else table


def cell(verdict: Row, reasons: dict[str, int]) -> str:
    """What is said of one mode; a reason gets a number when it comes for the first time."""
    if verdict["outcome"] in ("refused", "crash"):
        return f"{verdict['outcome']} ({reasons.setdefault(reason(verdict['message']), len(reasons) + 1)})"
    if verdict["outcome"] == "exact":
        return "exact"
    said = f"approximate, {'another shape' if verdict['error'] is None else percent(verdict['error'])}"
    return f"{said}, noted" if verdict["notes"] else said


def reason(message: str) -> str:
    """The first line of a message, without the notes that follow.

    Examples
    --------
    >>> reason("conv1: has no output. Note: a. Note: b.")
    'conv1: has no output.'
    """
    text = message.split("\n")[0].partition(" Note: ")[0]
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def plain(text: str) -> str:
    """A text whose signs mean nothing to Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


def percent(number: float) -> str:
    """A relative error, for people.

    Examples
    --------
    >>> percent(0.0312), percent(0.871), percent(0.00004)
    ('3.1 %', '87 %', 'below 0.1 %')
    """
    if number < 0.001:
        return "below 0.1 %"
    return f"{100 * number:.2g} %" if number < 0.995 else f"{100 * number:.0f} %"


if __name__ == "__main__":
    main()
