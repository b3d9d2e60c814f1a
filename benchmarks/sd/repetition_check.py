"""Check the measure of repeated content on the trained models of this repository, which repeat at twice their size.

    python benchmarks/sd/repetition_check.py [--samples 100]

Glyphs, clothes and a glyph transformer, trained at 16 pixels and sampled at 32. The clothes' true pictures need
Debian's dataset-fashion-mnist. Writes results/repetition.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion"))

import numpy as np
import torch
from cascade_rows import SMOOTH, Row
from cascades import sampled
from PIL import Image
from repetition import Repetition, mean_frequency, repetition
from torch import Tensor
from trained_models import MODELS

RESULTS = Path(__file__).resolve().parent / "results" / "repetition.json"
SIZE, SEED = 32, 0
STRENGTHS = {"glyphs": 0.4, "fashion": 0.5, "transformer": 0.3}  # where docs/guidance.md found the best cascades


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100, help="pictures a row")
    given = parser.parse_args()
    held = {}
    for name, model in MODELS.items():
        found = checked(name, given.samples)
        held[model.title] = {row: None if one is None else asdict(one) for row, one in found.items()}
        for row, one in found.items():
            print(f"{model.title}: {row}", "-" if one is None else f"{one.ratio:.2f} ({one.low:.2f} to {one.high:.2f})")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"samples": given.samples, "size": SIZE, "rows": held}, indent=1) + "\n")


if __name__ == "__main__":
    main()
