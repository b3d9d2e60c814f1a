"""Train both classifiers at 16x16 and write the checkpoints, the test images and what was measured.

    python examples/glyphs/train.py

Writes mlp.safetensors, cnn.safetensors, test.npz and results.json beside this file. No image larger than 16x16 is
ever shown to a network here: the larger test images are for whoever rescales the weights.
"""

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import matplotlib
import numpy as np
import PIL
import safetensors
import torch
from models import GlyphCNN, GlyphMLP
from numpy.typing import NDArray
from PIL import features
from render import CLASSES, TEST_FONTS, TRAIN_FONTS, area_reduce, render_glyphs
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
STORED_SIZE = 64
TRAINED_SIZE = 16
SEEDS = {"train": 1, "test": 2, "torch": 0}
COUNTS = {"train": 30_000, "test": 600}
RECIPES: dict[str, dict[str, Any]] = {
    "mlp": {"model": GlyphMLP, "epochs": 40, "batch": 128, "lr": 2e-3, "weight_decay": 0.05},
    "cnn": {"model": GlyphCNN, "epochs": 12, "batch": 128, "lr": 1e-2, "weight_decay": 0.3},
}


def main() -> None:
    """Render, train, write, read back, measure."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    train = _reduced(*render_glyphs(COUNTS["train"], SEEDS["train"], STORED_SIZE))
    images, labels = render_glyphs(COUNTS["test"], SEEDS["test"], STORED_SIZE, fonts=TEST_FONTS)
    np.savez_compressed(HERE / "test.npz", images=images, labels=labels)
    test = _reduced(images, labels)
    seconds = round(time.perf_counter() - start, 1)
    print(f"{COUNTS['train']} training and {COUNTS['test']} test images rendered in {seconds} s")

    results = {name: train_and_measure(name, train, test) for name in RECIPES}
    setting = {
        "size": TRAINED_SIZE,
        "seeds": SEEDS,
        "images": COUNTS,
        "fonts": {"train": TRAIN_FONTS, "test": TEST_FONTS},
        "seconds_rendering": seconds,
        "versions": _versions(),
    }
    (HERE / "results.json").write_text(json.dumps({"models": results, **setting}, indent=2) + "\n")


def train_and_measure(name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Train one recipe, write its checkpoint, and measure the checkpoint as read back from the file."""
    recipe = RECIPES[name]
    start = time.perf_counter()
    torch.manual_seed(SEEDS["torch"])
    model = fit(recipe["model"](), *train, **{k: v for k, v in recipe.items() if k != "model"})
    seconds = time.perf_counter() - start

    path = HERE / f"{name}.safetensors"
    save_file(model.state_dict(), path, metadata={"format": "pt"})
    path.chmod(0o644)  # save_file leaves it readable by its owner alone
    model = recipe["model"].from_state_dict(load_file(path))
    scores = {"train": measure(model, *train), "test": measure(model, *test)}
    print(
        f"{name}: train {scores['train']['accuracy']:.2%}, test {scores['test']['accuracy']:.2%} "
        f"(macro F1 {scores['test']['macro_f1']:.4f}), {seconds:.0f} s, {path.stat().st_size} bytes"
    )
    settings = {k: v for k, v in recipe.items() if k != "model"}
    return {**scores, "seconds": round(seconds, 1), "bytes": path.stat().st_size, "recipe": settings}


def fit(
    model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, batch: int, lr: float, weight_decay: float
) -> nn.Module:
    """Train on images `x`, (N, 1, H, W), and labels `y`, (N,): AdamW, one learning-rate cycle; in place."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    steps = len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x))[: steps * batch].split(batch):
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def measure(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy and macro F1 (the mean over classes of 2 TP / (2 TP + FP + FN)) on (N, 1, H, W) images."""
    guess = torch.cat([model(part).argmax(1) for part in x.split(1000)])
    confusion = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.float64)
    confusion.index_put_((y, guess), torch.ones(len(y), dtype=torch.float64), accumulate=True)
    f1 = 2 * confusion.diag() / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)
    return {"accuracy": round((guess == y).double().mean().item(), 6), "macro_f1": round(f1.mean().item(), 6)}


def _reduced(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Stored images as network input: (N, 64, 64) uint8 to (N, 1, 16, 16) float32 in [0, 1]."""
    x = area_reduce(images, STORED_SIZE // TRAINED_SIZE)
    return torch.from_numpy(x)[:, None], torch.from_numpy(labels)


def _versions() -> dict[str, str]:
    libraries = {m.__name__: m.__version__ for m in (torch, np, PIL, matplotlib, safetensors)}
    return {"python": platform.python_version(), **libraries, "freetype": str(features.version("freetype2"))}


if __name__ == "__main__":
    main()
