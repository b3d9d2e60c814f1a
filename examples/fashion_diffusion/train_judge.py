"""Train the classifier of true 32x32 pictures whose features judge what the diffusion model draws at 32x32.

    python examples/fashion_diffusion/train_judge.py --data /usr/share/datasets/fashion-mnist

Writes judge.safetensors and judge.json beside this file, in some ten minutes on one thread.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "diffusion"))

import numpy as np
import torch
from clothes import FOLDER, true_pictures
from judge_network import Judge, fit, look
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
SIZE = 32
WEIGHTS = HERE / "judge.safetensors"
CHANNELS = (16, 32, 64, 64)
SETTINGS: dict[str, Any] = {"seed": 0, "epochs": 6, "batch": 250, "lr": 1e-2, "weight_decay": 0.05}


def main() -> None:
    """Train on the 60,000 pictures, write, read back, count right answers among the 10,000 test pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="DIR", help="folder with the four IDX files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SETTINGS["seed"])
    began = time.perf_counter()
    judge = Judge(SIZE, CHANNELS)
    x, y = true_pictures("train", options.data)
    fit(judge, x[:, 0].numpy(), y.numpy(), SETTINGS)
    # What batch norm counts only serves its training.
    save_file({name: value for name, value in judge.state_dict().items() if value.is_floating_point()}, WEIGHTS)
    seconds = time.perf_counter() - began
    x, y = true_pictures("test", options.data)
    right = look(load_judge(), x[:, 0].numpy())[1].argmax(1) == y.numpy()
    results = {
        "settings": {"channels": CHANNELS, **SETTINGS}, "test_accuracy": round(float(right.mean()), 4),
        "by_class": [round(float(right[y.numpy() == k].mean()), 3) for k in range(10)], "seconds": round(seconds),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }  # fmt: skip
    (HERE / "judge.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


def load_judge() -> Judge:
    """The judge of judge.safetensors, in evaluation mode."""
    judge = Judge(SIZE, CHANNELS)
    judge.load_state_dict(load_file(WEIGHTS), strict=False)
    return judge.eval()


if __name__ == "__main__":
    main()
