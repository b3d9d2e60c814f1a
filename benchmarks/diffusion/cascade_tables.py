"""Write the tables of cascades in README.md and docs/ out of results/cascades.json.

    python benchmarks/diffusion/cascade_tables.py

tests/benchmarks/diffusion/test_cascade_tables.py compares the pages with the result file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(Path(__file__).resolve().parents[1]))

from marked_tables import markdown, rewrite  # noqa: E402 - beside this folder

PAGES = (ROOT / "README.md", ROOT / "docs" / "guidance.md", ROOT / "docs" / "measured.md")
RESULTS = HERE / "results" / "cascades.json"
COLUMNS = {
    "frechet": "Frechet distance", "kid": "KID", "one_object": "one object", "sure": "sure",
    "recognised": "recognised", "precision": "precision", "recall": "recall", "sharpness": "sharpness",
    "frechet_halved": "distance, halved",
}  # fmt: skip
OVERVIEW = {  # what is sampled: its results, the rows to show, and their names on the page
    "digits, 32x32 from a model of 16x16 (1,000 samples)": ("glyphs 32 decisive", "cascade 0.4"),
    "digits, 64x64 from a model of 16x16": ("glyphs 64", "cascade 0.5, 0.3"),
    "clothes, 32x32 from a model of 16x16": ("fashion 32", "cascade 0.5"),
    "digits, 32x32 from a transformer of 16x16": ("transformer 32", "cascade 0.3"),
}
SHOWN = {  # {} is the cascade on the left, and its strengths on the right
    "trained size, enlarged bicubically": "enlarged bicubically",
    "untouched": "untouched",
    "{}": "cascade at {} without guidance",
    "guidance 1.5": "guidance from noise",
    "nested guidance 1.5": "guidance from noise",
    "{}, guidance 1.5": "**guided cascade at {}**",
    "{}, guidance 1.5 + yarn positions, temperature 0": "**guided cascade at {}, `yarn` positions**",
}

Row = dict[str, Any]


def main() -> None:
    """Rewrite the tables of every page."""
    rewrite(PAGES, tables(json.loads(RESULTS.read_text())))


def tables(results: Row) -> dict[str, str]:
    """Every table by name: one for each model and size, and two that choose among their rows."""
    made = {f"cascade-{label.replace(' ', '-')}": table(held["rows"]) for label, held in results.items()}
    return made | {"cascade-overview": overview(results), "readme-cascade": first(results)}


def table(rows: Row) -> str:
    """All rows of one model and size."""
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    lines = [
        [name, f"{row['passes']:.4g}", *(_cell(column, row.get(column)) for column in columns)]
        for name, row in rows.items()
    ]
    return markdown(["row", "passes", *(COLUMNS[name] for name in columns)], lines)


def first(results: Row) -> str:
    """The README's table: the digits at twice their size, with words that need no other page."""
    rows, lines = results["glyphs 32 decisive"]["rows"], []
    for name, shown in SHOWN.items():
        if row := rows.get(name.format("cascade 0.4")):
            right = [_cell(column, row[column]) for column in ("one_object", "sure")]
            lines.append([shown.format("0.4"), *right, f"{row['frechet'][0]:.3g}", f"{row['passes']:.4g}"])
    return markdown(["sampled at 32x32", "shows one digit", "recognised", "distance", "passes"], lines)


def overview(results: Row) -> str:
    """The main rows of every model."""
    lines = []
    for what, (label, cascade) in OVERVIEW.items():
        rows, strengths = results.get(label, {}).get("rows", {}), cascade.removeprefix("cascade ")
        for name, shown in SHOWN.items():
            row = rows.get(name.format(cascade))
            if row is None:
                continue
            right = row.get("recognised") or row.get("sure")
            cells = [f"{row['passes']:.4g}", _cell("frechet", row["frechet"]), _cell("sure", right)]
            told = shown.format(strengths.replace(", ", ", then "))
            lines.append([f"{what}: {told}", *cells, _cell("sharpness", row["sharpness"])])
    return markdown(["sampled", "passes", "Frechet distance", "recognised", "sharpness"], lines)


def _cell(column: str, values: list[float] | None) -> str:
    if values is None:
        return "-"
    value, low, high = values
    if column.startswith("frechet"):
        return f"{value:.3g} ({low:.3g} to {high:.3g})"
    if column in ("kid", "sharpness"):
        return f"{value:.3f}" if column == "kid" else f"{value:.2f}"
    return f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
