"""The measured tables of README.md and docs/guidance.md, out of results/diffusion.json.

    python benchmarks/accuracy/diffusion_tables.py

Rewrites what stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->` in both pages.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(Path(__file__).resolve().parents[1]))

from marked_tables import rewrite  # noqa: E402 - beside this folder

README_ROWS = {
    2: (
        "true glyphs", "trained size, enlarged bicubically", "untouched", "dilated inner", "optimal inner",
        "guidance (1, 1)", "guidance (1, 1) + dilated inner", "guidance (1, 1) + optimal inner",
        "guidance (1, 1), smooth U + optimal inner", "guidance (1.5, 1), smooth U",
        "guidance (1.5, 1), smooth U + dilated inner", "guidance (1.5, 1), smooth U + optimal inner",
        "guidance (1.5, 1), smooth U + optimal inner, until 0.5",
    ),
    4: (
        "true glyphs", "trained size, enlarged bicubically", "untouched", "dilated inner",
        "guidance (1, 1) in one step", "nested: untouched / untouched", "nested: dilated / optimal",
        "nested: optimal / optimal",
        "nested: optimal / optimal, smooth U", "nested (1.5, 1): untouched / untouched, smooth U",
        "nested (1.5, 1): optimal / optimal until 0.5, smooth U",
    ),
}  # fmt: skip
COLUMNS = {"frechet": "Frechet distance", "one_object": "one object", "sure": "sure", "sharpness": "sharpness"}


def table(scale: int, rows: dict[str, Any], names: tuple[str, ...] | None = None) -> str:
    """A Markdown table: the value, and its 95 % interval for the distance."""
    columns = {**COLUMNS, **({"frechet_halved": "the same, halved"} if scale == 4 else {})}
    untouched = rows["untouched"]["frechet"][0]
    lines = [f"| {16 * scale}x{16 * scale} | of untouched | {' | '.join(columns.values())} |"]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    for name in names or rows:
        if name not in rows:
            continue
        row = rows[name]
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
    texts = {f"readme-{s}x": table(s, results[str(s)]["rows"], names) for s, names in README_ROWS.items()}
    texts |= {f"diffusion-{s}x": table(s, results[str(s)]["rows"]) for s in README_ROWS}
    texts["decisive-2x"] = table(2, results["2 decisive"]["rows"])
    rewrite((ROOT / "README.md", ROOT / "docs" / "guidance.md"), texts)


if __name__ == "__main__":
    main()
