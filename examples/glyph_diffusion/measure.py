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

import numpy as np
import torch
from diffusers import DiffusionPipeline
from models import GlyphCNN
from PIL import Image
from render import area_reduce, render_glyphs
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
SURE = 0.9
SIZE = 16
SAMPLES_SEED, TRUE_SEED = 100, 101
ROWS = ((1000, 20, 1.0), (1000, 20, 2.0), (300, 50, 1.0), (300, 100, 1.0), (300, 20, 3.0))  # pictures, steps, guidance
TRUE_COUNT = 1000


def main() -> None:
    """Measure the folder as it is, and draw."""
    torch.set_num_threads(1)
    print(json.dumps(measured(), indent=2))
    draw(HERE / "samples.png")


def load() -> DiffusionPipeline:
    """The folder as diffusers loads it: in float32, though the weights are stored in float16."""
    pipe = DiffusionPipeline.from_pretrained(HERE, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def measured() -> list[dict[str, float | str]]:
    """Shares recognised of the samples of each of `ROWS`, all from the same noise, and of true glyphs."""
    pipe = load()
    rows = []
    for count, steps, scale in ROWS:
        images, labels = sample(pipe, count, steps, scale)
        rows.append({"pictures": f"{steps} steps, guidance {scale}", "count": count, **recognised(images, labels)})
        print(rows[-1], flush=True)
    images, digits = render_glyphs(TRUE_COUNT, TRUE_SEED, 4 * SIZE)
    truth = torch.from_numpy(area_reduce(images, 4))[:, None]
    return [*rows, {"pictures": "true glyphs", "count": TRUE_COUNT, **recognised(truth, torch.from_numpy(digits))}]


def sample(pipe: DiffusionPipeline, count: int, steps: int, guidance_scale: float) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 16, 16) in [0, 1] and the digits asked for, in turn from 0 to 9."""
    labels = torch.arange(count) % 10
    noise = torch.randn(1000, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(SAMPLES_SEED))[:count]
    options = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "output_type": "pt"}
    parts = zip(labels.split(100), noise.split(100), strict=True)
    return torch.cat([pipe(asked, latents=start, **options).images for asked, start in parts]), labels


@torch.no_grad()
def recognised(images: Tensor, labels: Tensor) -> dict[str, float]:
    """Shares where the asked digit has a probability above `SURE`, and where it has the highest."""
    classifier = GlyphCNN.from_state_dict(load_file(HERE.parent / "glyphs" / "cnn.safetensors"))
    probabilities = classifier(images).softmax(1)
    asked = probabilities.gather(1, labels[:, None])[:, 0]
    top1 = probabilities.argmax(1) == labels
    return {"sure": round((asked > SURE).double().mean().item(), 4), "top1": round(top1.double().mean().item(), 4)}


def draw(path: Path, rows: int = 6, enlarged: int = 4) -> None:
    """Ten digits a row, 20 steps, without guidance and with: a grey PNG, each pixel `enlarged` times, a gap between."""
    pipe = load()
    halves = [sample(pipe, 10 * rows, 20, scale)[0] for scale in (1.0, 2.0)]
    tiles = torch.cat(halves).reshape(2, rows, 10, SIZE, SIZE).mul(255).round().byte().numpy()
    tiles = np.kron(tiles, np.ones((1, 1, 1, enlarged, enlarged), np.uint8))
    gap, side = 2, SIZE * enlarged
    tiles = np.pad(tiles, [(0, 0)] * 3 + [(gap, gap)] * 2, constant_values=255)
    sheets = tiles.transpose(0, 1, 3, 2, 4).reshape(2, rows * (side + 2 * gap), 10 * (side + 2 * gap))
    between = np.full((sheets.shape[1], 6 * gap), 255, np.uint8)
    Image.fromarray(np.concatenate([sheets[0], between, sheets[1]], axis=1)).save(path, optimize=True)


if __name__ == "__main__":
    main()
