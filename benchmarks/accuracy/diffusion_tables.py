"""The measured tables of docs/guidance.md that start from noise, out of results/diffusion.json.

    python benchmarks/accuracy/diffusion_tables.py

Rewrites what stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(Path(__file__).resolve().parents[1]))

from marked_tables import rewrite  # noqa: E402 - beside this folder

SCALES = (2, 4)
COLUMNS = {"frechet": "Frechet distance", "one_object": "one object", "sure": "sure", "sharpness": "sharpness"}


def table(scale: int, rows: dict[str, Any]) -> str:
    """A Markdown table: the value, and its 95 % interval for the distance."""
    columns = {**COLUMNS, **({"frechet_halved": "the same, halved"} if scale == 4 else {})}
    untouched = rows["untouched"]["frechet"][0]
    lines = [f"| {16 * scale}x{16 * scale} | of untouched | {' | '.join(columns.values())} |"]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    for name, row in rows.items():
        cells = [_cell(key, row[key]) for key in columns if key in row]
        lines.append(f"| {name} | {row['frechet'][0] / untouched:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(key: str, values: list[float]) -> str:
    value, low, high = values
    if key.startswith("frechet"):
        return f"{value:.3g} ({low:.3g} to {high:.3g})"
    return f"{value:.2f}" if key == "sharpness" else f"{100 * value:.1f} %"


def main() -> None:
    results = json.loads((HERE / "results" / "diffusion.json").read_text())
    texts = {f"diffusion-{s}x": table(s, results[str(s)]["rows"]) for s in SCALES}
    texts["decisive-2x"] = table(2, results["2 decisive"]["rows"])
    rewrite([ROOT / "docs" / "guidance.md"], texts)


if __name__ == "__main__":
    main()
