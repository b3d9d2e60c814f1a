"""Draw samples of one of the example pipelines at its trained size, and put them on a sheet.

Scope: the folder as diffusers loads it, without rekernel. Not here: judging (see `measure` of each example).
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

SIZE, CLASSES = 16, 10
SEED, DRAWN = 100, 1000  # every sample set is the first part of the same noise


def load(folder: Path) -> DiffusionPipeline:
    """The folder as diffusers loads it: in float32, though the weights are stored in half precision."""
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: DiffusionPipeline, count: int, steps: int, guidance_scale: float) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 16, 16) in [0, 1] and the classes asked for, in turn from 0 to 9; at most `DRAWN`."""
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(DRAWN, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(SEED))[:count]
    options = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "output_type": "pt"}
    parts = zip(labels.split(100), noise.split(100), strict=True)
    return torch.cat([pipe(asked, latents=start, **options).images for asked, start in parts]), labels


def draw(pipe: DiffusionPipeline, path: Path, rows: int = 6, enlarged: int = 4) -> None:
    """Ten classes a row, 20 steps, without guidance and with: a grey PNG, each pixel `enlarged` times."""
    halves = [sample(pipe, CLASSES * rows, 20, scale)[0] for scale in (1.0, 2.0)]
    tiles = torch.cat(halves).reshape(2, rows, CLASSES, SIZE, SIZE).mul(255).round().byte().numpy()
    tiles = np.kron(tiles, np.ones((1, 1, 1, enlarged, enlarged), np.uint8))
    gap, side = 2, SIZE * enlarged
    tiles = np.pad(tiles, [(0, 0)] * 3 + [(gap, gap)] * 2, constant_values=255)
    sheets = tiles.transpose(0, 1, 3, 2, 4).reshape(2, rows * (side + 2 * gap), CLASSES * (side + 2 * gap))
    between = np.full((sheets.shape[1], 6 * gap), 255, np.uint8)
    Image.fromarray(np.concatenate([sheets[0], between, sheets[1]], axis=1)).save(path, optimize=True)
