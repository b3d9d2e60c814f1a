"""Measure the pipeline folder beside this file at its trained size, and draw a picture of its samples.

    python examples/glyph_diffusion/measure.py    # draws samples.png again, prints the numbers

Scope: the folder as diffusers loads it, and the classifier of examples/glyphs. Not here: training (see `train`). That
classifier judges the samples. It was trained on true glyphs with label smoothing 0.05 and gives even a perfect glyph
about 0.955, so a threshold of 0.9 is strict. The row `true_glyphs` has the figures of true glyphs.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "glyphs"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion_common"))

import torch
from models import GlyphCNN
from render import area_reduce, render_glyphs
from safetensors.torch import load_file
from samples import SIZE, draw, load, sample
from torch import Tensor

HERE = Path(__file__).resolve().parent
SURE = 0.9
TRUE_SEED = 101
ROWS = ((1000, 20, 1.0), (1000, 20, 2.0), (300, 50, 1.0), (300, 100, 1.0), (300, 20, 3.0))  # pictures, steps, guidance
TRUE_COUNT = 1000


def main() -> None:
    """Measure the folder as it is, and draw."""
    torch.set_num_threads(1)
    print(json.dumps(measured(), indent=2))
    draw(load(HERE), HERE / "samples.png")


def measured() -> list[dict[str, float | str]]:
    """Shares recognised of the samples of each of `ROWS`, all from the same noise, and of true glyphs."""
    pipe = load(HERE)
    rows = []
    for count, steps, scale in ROWS:
        images, labels = sample(pipe, count, steps, scale)
        rows.append({"pictures": f"{steps} steps, guidance {scale}", "count": count, **recognised(images, labels)})
        print(rows[-1], flush=True)
    images, digits = render_glyphs(TRUE_COUNT, TRUE_SEED, 4 * SIZE)
    truth = torch.from_numpy(area_reduce(images, 4))[:, None]
    return [*rows, {"pictures": "true glyphs", "count": TRUE_COUNT, **recognised(truth, torch.from_numpy(digits))}]


@torch.no_grad()
def recognised(images: Tensor, labels: Tensor) -> dict[str, float]:
    """Shares where the asked digit has a probability above `SURE`, and where it has the highest."""
    classifier = GlyphCNN.from_state_dict(load_file(HERE.parent / "glyphs" / "cnn.safetensors"))
    probabilities = classifier(images).softmax(1)
    asked = probabilities.gather(1, labels[:, None])[:, 0]
    top1 = probabilities.argmax(1) == labels
    return {"sure": round((asked > SURE).double().mean().item(), 4), "top1": round(top1.double().mean().item(), 4)}


if __name__ == "__main__":
    main()
