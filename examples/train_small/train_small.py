"""Train at 16x16, rescale to 32x32, fine-tune for a few steps: the whole recipe, to read and to copy.

    python examples/train_small/train_small.py
    python examples/train_small/train_small.py --steps 0 --out out/no-fine-tuning.safetensors

The images are digits drawn by examples/glyphs, in 16 fonts for training and 5 other fonts for testing.
docs/training-small.md explains each step and what it gains. Needs torch, and matplotlib for its fonts.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "glyphs"))

import numpy as np
import torch
from models import GlyphCNN
from render import TEST_FONTS, TRAIN_FONTS, render_glyphs
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

import rekernel.torch as rkt

SMALL = 16
CHANNELS = (1, 8, 12, 16, 24)  # a third of the shipped classifier's: it is never wrong, and nothing could be compared


def main() -> None:
    """Train small, rescale, re-estimate, fine-tune, save, load."""
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    large = SMALL * options.scale
    x, y = images(options.images, 1, noise=options.noise)
    test_x, test_y = images(1000, 2, fonts=TEST_FONTS, noise=options.noise)

    model = fit(GlyphCNN(channels=CHANNELS), reduced(x, SMALL), y, steps=options.small_steps, lr=1e-2)
    _show(f"trained at {SMALL}x{SMALL}, seen at {SMALL}x{SMALL}", score(model, reduced(test_x, SMALL), test_y))
    _show(f"the same network, seen at {large}x{large}", score(model, reduced(test_x, large), test_y))

    example = torch.zeros(1, 1, SMALL, SMALL)
    larger = rkt.rescale(model, options.scale, example, mode="supersample", method="optimal")
    _show(f"rescaled, seen at {large}x{large}", score(larger, reduced(test_x, large), test_y))
    rkt.recalibrate(larger, reduced(x, large).split(250))
    _show("batch norm's statistics re-estimated", score(larger, reduced(test_x, large), test_y))
    if options.steps:
        fit(larger, reduced(x, large), y, steps=options.steps, lr=options.lr)
        _show(f"fine-tuned for {options.steps} steps", score(larger, reduced(test_x, large), test_y))

    options.out.parent.mkdir(parents=True, exist_ok=True)
    rkt.save(larger, options.out, force=True)
    again = rkt.load(GlyphCNN(channels=CHANNELS), options.out).eval()  # built for 16x16; the file knows the rest
    _show(f"loaded from {options.out}", score(again, reduced(test_x, large), test_y))


def images(n: int, seed: int, *, fonts: tuple[str, ...] = TRAIN_FONTS, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """(n, 1, 64, 64) images and (n,) labels; the white noise has standard deviation `noise` once reduced to 16x16."""
    pixels, labels = render_glyphs(n, seed, fonts=fonts)
    grain = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
    x = pixels.astype(np.float32) / 255 + noise * (pixels.shape[-1] / SMALL) * grain
    return torch.from_numpy(x)[:, None], torch.from_numpy(labels)


def reduced(x: Tensor, size: int) -> Tensor:
    """The same images at a smaller size, each pixel the average of those it covers."""
    return avg_pool2d(x, x.shape[-1] // size)


def fit(model: nn.Module, x: Tensor, y: Tensor, *, steps: int, lr: float, batch: int = 64, seed: int = 0) -> nn.Module:
    """Train `steps` steps of AdamW over one learning-rate cycle, in place; every epoch has another order."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    model.train()
    queue = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(queue) < batch:
            queue = torch.cat([queue, torch.randperm(len(x), generator=order)])
        index, queue = queue[:batch].to(x.device), queue[batch:]
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(x[index]), y[index]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def score(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Cross-entropy, accuracy and macro F1; the model as it is, in evaluation mode."""
    logits = torch.cat([model.eval()(part) for part in x.split(250)])
    guess, classes = logits.argmax(1), range(logits.shape[1])
    f1 = [2 * ((guess == c) & (y == c)).sum() / ((guess == c).sum() + (y == c).sum()).clamp(min=1) for c in classes]
    accuracy = (guess == y).double().mean()
    return {
        "loss": cross_entropy(logits, y).item(),
        "accuracy": accuracy.item(),
        "macro_f1": torch.stack(f1).mean().item(),
    }


def _show(what: str, scores: dict[str, float]) -> None:
    accuracy, f1 = 100 * scores["accuracy"], 100 * scores["macro_f1"]
    print(f"{what:42s} accuracy {accuracy:5.1f} %   macro F1 {f1:5.1f} %   loss {scores['loss']:.3f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=2, choices=(2, 4))
    parser.add_argument("--images", type=int, default=1000, help="training images")
    parser.add_argument("--noise", type=float, default=0.05, help="standard deviation of a pixel's noise at 16x16")
    parser.add_argument("--small-steps", type=int, default=1000, help="steps of 64 images at 16x16")
    parser.add_argument("--steps", type=int, default=200, help="fine-tuning steps of 64 images at the target; 0: none")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate of the fine-tuning")
    parser.add_argument("--out", type=Path, default=Path("out/train_small.safetensors"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
