"""Train the example diffusion model of clothes at 16x16 and write the pipeline folder and what was measured.

    python examples/fashion_diffusion/train.py --data /usr/share/datasets/fashion-mnist

Writes model_index.json, unet/, scheduler/, samples.png and results.json beside this file. Checkpoints go to
`rekernel-fashion-diffusion` in the system's temporary folder, so that an interrupted run continues where it was.
No picture larger than 16x16 is ever shown to the network.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion_common"))

import PIL
import torch
from clothes import FOLDER, reduced, true_pictures
from measure import measured
from samples import draw, load
from train_unet import train, write_folder, write_results

HERE = Path(__file__).resolve().parent
SCRATCH = Path(tempfile.gettempdir()) / "rekernel-fashion-diffusion"
DATA = {"images": "Fashion-MNIST, train", "count": 60_000, "padded_to": 32, "size": 16}
RECIPE: dict[str, Any] = {
    "steps": 4_000,
    "batch": 64,
    "lr": 1e-3,
    "warmup": 300,
    "flat": 0.5,
    "weight_decay": 0.01,
    "clip": 1.0,
    "label_dropout": 0.1,
    "ema": 0.999,
    "autocast": "bfloat16",
    "seed": 0,
}


def main() -> None:
    """Read the pictures, train from the last checkpoint on, write, read back, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="DIR", help="folder with the four IDX files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    x, y = true_pictures("train", options.data)
    state = train(reduced(x) * 2 - 1, y, RECIPE, DATA, SCRATCH / "checkpoint.pt")
    write_folder(state["ema"], HERE, "FashionPipeline")
    draw(load(HERE), HERE / "samples.png")
    write_results(state, HERE, measured(options.data), RECIPE, DATA, (PIL,))


if __name__ == "__main__":
    main()
