"""Print what the result files hold as ratios.

    python benchmarks/gpu/tables.py [results/DEVICE.json ...]

Layers: the median time over that of the untouched layer. `resample`: over filling the result. Steps: over a plain step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from marked_tables import markdown  # noqa: E402

BASE = {"layer": "untouched", "resample": "fill", "steps": "plain"}
MEGA = 1e6


def tables(held: dict[str, Any]) -> str:
    """All rows of one result file as Markdown, one table for each kind of row and each setup of layers."""
    device = held["setting"]["device"]
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    failed = []
    for key, row in held["rows"].items():
        kind, _, rest = key.partition(": ")
        if "forms" not in row:
            failed.append(f"- {key}: {row['failed']}")
            continue
        name, _, setup = rest.partition("; ")
        groups.setdefault(f"{kind}; {setup}" if setup else kind, []).append((name, row))
    parts = [f"{title} ({device})\n\n{table(rows)}" for title, rows in groups.items()]
    return "\n\n".join([*parts, *(["\n".join(["Not measured:", *failed])] if failed else [])])


def table(rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Rows of one kind: the milliseconds of the base, then the ratio of each form, and the memory of its peak."""
    rows = list(rows)
    base = BASE[rows[0][1]["kind"]]
    forms = [name for name in dict.fromkeys(n for _, row in rows for n in row["forms"]) if name != base]
    head = ["row", f"{base}, ms", *forms, *(f"{name}, peak MB" for name in (base, *forms) if _has_peaks(rows))]
    lines = []
    for name, row in rows:
        held = row["forms"]
        ratios = [f"{held[n]['median'] / held[base]['median']:.2f}" if n in held else "-" for n in forms]
        peaks = [
            f"{held[n]['peak bytes'] / MEGA:.0f}" if n in held else "-" for n in (base, *forms) if _has_peaks(rows)
        ]
        lines.append([name, f"{held[base]['median']:.3g}", *ratios, *peaks])
    return markdown(head, lines)


def _has_peaks(rows: Iterable[tuple[str, dict[str, Any]]]) -> bool:
    return all(form["peak bytes"] is not None for _, row in rows for form in row["forms"].values())


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or sorted((HERE / "results").glob("*.json"))
    if not paths:
        sys.exit("there are no result files yet; python benchmarks/gpu/run.py writes one on a machine with a GPU")
    for path in paths:
        print(tables(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
