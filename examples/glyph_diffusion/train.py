"""Train the example diffusion model at 16x16 and write the pipeline folder and what was measured.

    python examples/glyph_diffusion/train.py

Writes model_index.json, unet/, scheduler/, samples.png and results.json beside this file. Images and checkpoints go to
`rekernel-glyph-diffusion` in the system's temporary folder, so that an interrupted run continues where it was.
No image larger than 16x16 is ever shown to the network.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "glyphs"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion_common"))

import matplotlib
import PIL
import torch
from glyph_images import load_images
from measure import measured
from samples import draw, load
from train_unet import train, write_folder, write_results

HERE = Path(__file__).resolve().parent
SCRATCH = Path(tempfile.gettempdir()) / "rekernel-glyph-diffusion"
DATA = {"images": 30_000, "seed": 11, "rendered_size": 64, "size": 16}
RECIPE: dict[str, Any] = {
    "steps": 8_000,
    "batch": 64,
    "lr": 1e-3,
    "warmup": 300,  # steps of linear rise
    "flat": 0.5625,  # share of the steps after which the rate falls along half a cosine
    "weight_decay": 0.01,
    "clip": 1.0,  # norm of the gradient
    "label_dropout": 0.1,
    "ema": 0.999,
    "autocast": "bfloat16",
    "seed": 0,
}


def main() -> None:
    """Render or read the images, train from the last checkpoint on, write, read back, measure."""
    torch.set_num_threads(1)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    images, labels = load_images(SCRATCH / "images.npz", DATA)
    state = train(images, labels, RECIPE, DATA, SCRATCH / "checkpoint.pt")
    write_folder(state["ema"], HERE, "GlyphPipeline")
    draw(load(HERE), HERE / "samples.png")
    quality = {"classifier": "examples/glyphs/cnn.safetensors", "rows": measured()}
    write_results(state, HERE, quality, RECIPE, DATA, (PIL, matplotlib))


if __name__ == "__main__":
    main()
