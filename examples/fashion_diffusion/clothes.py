"""Read the pictures of Fashion-MNIST at 32x32, and reduce them to the 16x16 that the diffusion model is trained on.

Scope: sizes. Not here: the files (see `fashion_data` of benchmarks/real). The 28x28 pictures get a black border of 2
pixels. They are black around already, and 32 halves to 16, and twice more inside the UNet.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "real"))

from fashion_data import FOLDER, Pictures, load
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def true_pictures(part: str, folder: Path = FOLDER) -> Pictures:
    """The 60,000 pictures of part 'train' or the 10,000 of 'test': (N, 1, 32, 32) in [0, 1], and their classes."""
    x, y = load(part, folder=folder)
    return Pictures(pad(x, (2, 2, 2, 2)), y)


def reduced(x: Tensor) -> Tensor:
    """The mean of each 2x2 block: (N, 1, 32, 32) to (N, 1, 16, 16)."""
    return avg_pool2d(x, 2)
