"""Measure the pipeline folder beside this file at its trained size, and draw a picture of its samples.

    python examples/fashion_diffusion/measure.py --data /usr/share/datasets/fashion-mnist

Draws samples.png again, prints the numbers. Scope: the folder as diffusers loads it. Not here: training (see `train`).
The classifier of true 32x32 pictures judges the samples, so they are enlarged bicubically first. So are true pictures
that were reduced to 16x16; their row has the figures that perfect samples would have.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion_common"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "diffusion"))

import torch
from clothes import FOLDER, reduced, true_pictures
from fashion_judge import REFERENCE, held_back, judge
from frechet import Features, frechet_interval
from intervals import Measured
from judge_network import look
from samples import draw, load, sample
from torch import Tensor
from torch.nn.functional import interpolate
from train_judge import load_judge

HERE = Path(__file__).resolve().parent
COUNT = 300
ROWS = ((20, 1.0), (20, 2.0))  # steps, guidance


def main() -> None:
    """Measure the folder as it is, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="DIR", help="folder with the four IDX files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(measured(options.data), indent=2))
    draw(load(HERE), HERE / "samples.png")


def measured(data: Path) -> list[dict[str, object]]:
    """What the judge says of `COUNT` samples for each of `ROWS`, and of true pictures; values with their intervals.

    'frechet_small' compares with true pictures that were reduced and enlarged too.
    """
    pipe = load(HERE)
    true, labels = held_back(COUNT, data)
    small = _features(enlarged(reduced(true_pictures("test", data).x[:REFERENCE])))
    rows = [_row("true", true, labels, small, data)]
    rows += [_row("true, reduced to 16x16", enlarged(reduced(true)), labels, small, data)]
    for steps, scale in ROWS:
        images, asked = sample(pipe, COUNT, steps, scale)
        rows.append(_row(f"{steps} steps, guidance {scale}", enlarged(images), asked, small, data))
        print(rows[-1], flush=True)
    return rows


def enlarged(x: Tensor) -> Tensor:
    """Twice the size, bicubically: (N, 1, 16, 16) to (N, 1, 32, 32)."""
    return interpolate(x, scale_factor=2, mode="bicubic").clamp(0, 1)


def _row(name: str, images: Tensor, labels: Tensor, small: Features, data: Path) -> dict[str, object]:
    figures = {**judge(images, labels, data), "frechet_small": Measured(*frechet_interval(small, _features(images)))}
    values = {key: [round(x, 4) for x in (m.value, m.low, m.high)] for key, m in figures.items()}
    return {"pictures": name, "count": len(images), **values}


def _features(images: Tensor) -> Features:
    return look(load_judge(), images[:, 0].numpy())[0]


if __name__ == "__main__":
    main()
