"""Check the measure of repeated content on the trained models of this repository, which repeat at twice their size.

    python benchmarks/sd/repetition_check.py [--samples 100]

Glyphs, clothes and a glyph transformer, trained at 16 pixels and sampled at 32. The clothes' true pictures need
Debian's dataset-fashion-mnist. Writes results/repetition.json, and the table of README.md from it (`--table`: that
alone).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).resolve().parents[1] / name) for name in (".", "diffusion")]

import numpy as np
import torch
from cascade_rows import SMOOTH, Row
from cascades import sampled
from marked_tables import markdown, rewrite
from PIL import Image
from repetition import Repetition, mean_frequency, repetition
from torch import Tensor
from trained_models import MODELS

RESULTS = Path(__file__).resolve().parent / "results" / "repetition.json"
README = Path(__file__).resolve().parent / "README.md"
SIZE = 32
STRENGTHS = {"glyphs": 0.4, "fashion": 0.5, "transformer": 0.3}  # the headline rows of benchmarks/diffusion


def checked(name: str, count: int) -> dict[str, Repetition | None]:
    """Repetition of each way of sampling, against samples of the trained size from the same noise, enlarged.

    Parameters
    ----------
    name : of one of the trained models
    count : pictures of each row; the true pictures are as many, and each is compared with any sample
    """
    torch.set_num_threads(1)
    model = MODELS[name]
    rows = [
        Row("enlarged", "plain", enlarged=True),
        Row("untouched", "plain"),
        Row("guidance", "guidance", guidance=SMOOTH),
        Row("guided cascade", "guided cascade", (STRENGTHS[name],), SMOOTH),
    ]
    made = {row.name: _frequencies(sampled(model, row, SIZE, count)[0]) for row in rows}
    made["true pictures"] = _frequencies(model.true(count, SIZE)[0])
    return {row: repetition(values, made["enlarged"]) for row, values in made.items()}


def _frequencies(pictures: Tensor) -> list[float | None]:
    values = np.rint(255 * pictures.clamp(0, 1).numpy()).astype(np.uint8)
    return [mean_frequency(Image.fromarray(one)) for one in values]


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown: ways of sampling down, models across."""
    models = results["rows"]
    ways = list(next(iter(models.values())))
    cells = [[way, *(_cell(rows[way]) for rows in models.values())] for way in ways]
    return markdown(["", *models], cells)


def _cell(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100, help="pictures a row")
    parser.add_argument("--table", action="store_true", help="write the table again; measure nothing")
    given = parser.parse_args()
    if not given.table:
        held = {
            model.title: {row: one and asdict(one) for row, one in checked(name, given.samples).items()}
            for name, model in MODELS.items()
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"samples": given.samples, "size": SIZE, "rows": held}, indent=1) + "\n")
    results = json.loads(RESULTS.read_text())
    rewrite([README], {"repetition": table(results)})
    print(table(results))


if __name__ == "__main__":
    main()
