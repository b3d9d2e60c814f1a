"""Measure the pipeline folder beside this file at its trained size, and draw a picture of its samples.

    python examples/glyph_transformer/measure.py    # draws samples.png again, prints the numbers

Scope: the folder as diffusers loads it, and two classifiers of true glyphs. Not here: training (see `train`). 'sure'
and 'top1' are those of the benchmarks (benchmarks/accuracy/diffusion_metrics.py), whose judge gives nearly all true
glyphs more than 0.9. 'strict_sure' and 'strict_top1' are those of examples/glyphs/cnn.safetensors, which was trained
with label smoothing and gives even a perfect glyph about 0.955. The row `true glyphs` has the figures of true glyphs.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "glyphs"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion_common"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy"))

import numpy as np
import torch
from diffusion_metrics import Reference
from glyph_features import true_glyphs
from models import GlyphCNN
from numpy.typing import NDArray
from safetensors.torch import load_file
from samples import SIZE, draw, load, sample

HERE = Path(__file__).resolve().parent
SURE = 0.9
TRUE_SEED = 101
ROWS = ((1000, 20, 1.0), (1000, 20, 2.0), (200, 10, 2.0), (200, 20, 3.0), (200, 50, 1.0))  # pictures, steps, guidance
TRUE_COUNT = 1000
Images = NDArray[np.float32]


def main() -> None:
    """Measure the folder as it is, and draw."""
    torch.set_num_threads(1)
    print(json.dumps(measured(), indent=2))
    draw_samples()


# The network runs under bfloat16 autocast, as in the benchmarks.


@torch.autocast("cpu", torch.bfloat16)
def draw_samples() -> None:
    """Draw samples.png."""
    draw(load(HERE), HERE / "samples.png")


def measured() -> list[dict[str, float | str]]:
    """The numbers of the samples of each of `ROWS`, all from the same noise, and of true glyphs."""
    pipe = load(HERE)
    rows: list[dict[str, float | str]] = []
    for count, steps, scale in ROWS:
        with torch.autocast("cpu", torch.bfloat16):
            images, labels = sample(pipe, count, steps, scale)
        figures = judged(images[:, 0].numpy(), labels.numpy())
        rows.append({"pictures": f"{steps} steps, guidance {scale}", "count": count, **figures})
        print(rows[-1], flush=True)
    truth = true_glyphs(TRUE_COUNT, TRUE_SEED, SIZE)
    return [*rows, {"pictures": "true glyphs", "count": TRUE_COUNT, **judged(*truth)}]


def judged(images: Images, labels: NDArray[np.int64]) -> dict[str, float]:
    """The benchmarks' numbers, without their intervals, and the shares that examples/glyphs recognises."""
    row = {name: round(number.value, 4) for name, number in Reference.of_size(SIZE).measure(images, labels).items()}
    classifier = GlyphCNN.from_state_dict(load_file(HERE.parent / "glyphs" / "cnn.safetensors"))
    with torch.no_grad():
        probabilities = classifier(torch.from_numpy(images)[:, None]).softmax(1).numpy()
    asked = probabilities[np.arange(len(labels)), labels]
    strict_sure, strict_top1 = (asked > SURE).mean(), (probabilities.argmax(1) == labels).mean()
    return {**row, "strict_sure": round(float(strict_sure), 4), "strict_top1": round(float(strict_top1), 4)}


if __name__ == "__main__":
    main()
