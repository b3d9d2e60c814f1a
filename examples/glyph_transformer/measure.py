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
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy"))

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusion_metrics import Reference
from glyph_features import true_glyphs
from models import GlyphCNN
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
SURE = 0.9
SIZE = 16
SAMPLES_SEED, TRUE_SEED = 100, 101
ROWS = ((1000, 20, 1.0), (1000, 20, 2.0), (200, 10, 2.0), (200, 20, 3.0), (200, 50, 1.0))  # pictures, steps, guidance
TRUE_COUNT = 1000
Images = NDArray[np.float32]


def main() -> None:
    """Measure the folder as it is, and draw."""
    torch.set_num_threads(1)
    print(json.dumps(measured(), indent=2))
    draw(HERE / "samples.png")


def load() -> DiffusionPipeline:
    """The folder as diffusers loads it: in float32, though the weights are stored in bfloat16."""
    pipe = DiffusionPipeline.from_pretrained(HERE, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def measured() -> list[dict[str, float | str]]:
    """The numbers of the samples of each of `ROWS`, all from the same noise, and of true glyphs."""
    pipe = load()
    rows: list[dict[str, float | str]] = []
    for count, steps, scale in ROWS:
        images, labels = sample(pipe, count, steps, scale)
        rows.append({"pictures": f"{steps} steps, guidance {scale}", "count": count, **judged(images, labels)})
        print(rows[-1], flush=True)
    truth = true_glyphs(TRUE_COUNT, TRUE_SEED, SIZE)
    return [*rows, {"pictures": "true glyphs", "count": TRUE_COUNT, **judged(*truth)}]


def sample(pipe: DiffusionPipeline, count: int, steps: int, guidance_scale: float) -> tuple[Images, NDArray[np.int64]]:
    """Pictures (N, 16, 16) in [0, 1] and the digits asked for, in turn from 0 to 9.

    The network runs under bfloat16 autocast, as in the benchmarks.
    """
    labels = torch.arange(count) % 10
    noise = torch.randn(1000, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(SAMPLES_SEED))[:count]
    options = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "output_type": "pt"}
    parts = zip(labels.split(100), noise.split(100), strict=True)
    with torch.autocast("cpu", torch.bfloat16):
        images = torch.cat([pipe(asked, latents=start, **options).images for asked, start in parts])
    return images[:, 0].numpy(), labels.numpy()


def judged(images: Images, labels: NDArray[np.int64]) -> dict[str, float]:
    """The benchmarks' numbers, without their intervals, and the shares that examples/glyphs recognises."""
    row = {name: round(number.value, 4) for name, number in Reference.of_size(SIZE).measure(images, labels).items()}
    classifier = GlyphCNN.from_state_dict(load_file(HERE.parent / "glyphs" / "cnn.safetensors"))
    with torch.no_grad():
        probabilities = classifier(torch.from_numpy(images)[:, None]).softmax(1).numpy()
    asked = probabilities[np.arange(len(labels)), labels]
    strict_sure, strict_top1 = (asked > SURE).mean(), (probabilities.argmax(1) == labels).mean()
    return {**row, "strict_sure": round(float(strict_sure), 4), "strict_top1": round(float(strict_top1), 4)}


def draw(path: Path, rows: int = 6, enlarged: int = 4) -> None:
    """Ten digits a row, 20 steps, without guidance and with: a grey PNG, each pixel `enlarged` times, a gap between."""
    pipe = load()
    halves = [sample(pipe, 10 * rows, 20, scale)[0] for scale in (1.0, 2.0)]
    tiles = np.rint(np.stack(halves).reshape(2, rows, 10, SIZE, SIZE) * 255).astype(np.uint8)
    tiles = np.kron(tiles, np.ones((1, 1, 1, enlarged, enlarged), np.uint8))
    gap, side = 2, SIZE * enlarged
    tiles = np.pad(tiles, [(0, 0)] * 3 + [(gap, gap)] * 2, constant_values=255)
    sheets = tiles.transpose(0, 1, 3, 2, 4).reshape(2, rows * (side + 2 * gap), 10 * (side + 2 * gap))
    between = np.full((sheets.shape[1], 6 * gap), 255, np.uint8)
    Image.fromarray(np.concatenate([sheets[0], between, sheets[1]], axis=1)).save(path, optimize=True)


if __name__ == "__main__":
    main()
