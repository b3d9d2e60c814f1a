"""Train a judge for each size, a small classifier of true glyphs of that size, and compute its features.

Scope: glyphs and training of judges. Not here: the distance of features (see `frechet`), sampling (see `diffusion`).
Imports torch and, from examples/glyphs, the drawing. Judges are trained where they are needed and kept in the system's
temporary folder, under a digest of their settings; none is shipped. A judge is trained on clean glyphs of the training
fonts only, so it recognises glyphs but does not detect pictures that are not glyphs.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "glyphs"))

import numpy as np
import torch
from numpy.typing import NDArray
from render import CLASSES, render_glyphs
from torch import Tensor, nn

CACHE = Path(tempfile.gettempdir()) / "rekernel-judges"
SETTINGS: dict[str, Any] = {
    "images": 10_000,
    "images_seed": 31,
    "seed": 0,
    "epochs": 10,
    "batch": 100,
    "lr": 1e-2,
    "weight_decay": 0.05,
    "channels": (24, 32, 48, 64),
}


class Judge(nn.Module):
    """3x3 convolutions down to a 4x4 grid and its average: (B, 1, S, S) in [0, 1] to (B, 10) logits.

    Each stage halves the side, but for the first one up to 32 pixels. The last stages have the widths `channels`,
    what comes before them half the first of these; so there are as many features at every size.
    """

    def __init__(self, size: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        if size < 8 or size & (size - 1):
            raise ValueError(f"size={size} is not a power of two of at least 8.")
        halvings = size.bit_length() - 3
        strides = [2] * halvings if size > 32 else [1] + [2] * halvings
        widths = [channels[0] // 2] * (len(strides) - len(channels)) + list(channels[-len(strides) :])
        self.stages = nn.Sequential()
        for stride, cin, cout in zip(strides, [1, *widths], widths, strict=False):
            conv = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
            self.stages.extend([conv, nn.BatchNorm2d(cout), nn.ReLU()])
        self.fc = nn.Linear(widths[-1], len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads: (B, 1, S, S) to (B, F)."""
        return self.stages(x).mean((2, 3))


def judge_for(size: int, settings: dict[str, Any] = SETTINGS, cache: Path = CACHE) -> Judge:
    """The judge of `size`, read from `cache` or trained on one thread and kept there.

    Training draws its own images, and takes minutes.
    """
    key = hashlib.sha256(json.dumps([size, settings, torch.__version__]).encode()).hexdigest()[:16]
    path = cache / f"judge-{size}-{key}.pt"
    with torch.random.fork_rng(devices=[]):  # the caller's random state is left as it was
        torch.manual_seed(settings["seed"])
        judge = Judge(size, tuple(settings["channels"]))
        if path.exists():
            judge.load_state_dict(torch.load(path, weights_only=True))
            return judge.eval()
        _fit(judge, *true_glyphs(settings["images"], settings["images_seed"], size), settings)
    cache.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    torch.save(judge.state_dict(), aside)
    aside.replace(path)
    return judge.eval()


def true_glyphs(n: int, seed: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`n` glyphs of the training fonts, drawn at `size`: (N, S, S) in [0, 1] and (N,) labels."""
    images, labels = render_glyphs(n, seed, size)
    return images.astype(np.float32) / 255, labels


@torch.no_grad()
def look(judge: Judge, images: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, S, S) pictures in [0, 1] to the judge's features, (N, F), and its probabilities, (N, 10)."""
    x = torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None]
    features = torch.cat([judge.features(part) for part in x.split(200)])
    return features.double().numpy(), judge.fc(features).double().softmax(1).numpy()


def _fit(judge: Judge, images: NDArray[np.float32], labels: NDArray[np.int64], settings: dict[str, Any]) -> None:
    """AdamW, one learning-rate cycle; in place."""
    x, y = torch.from_numpy(images)[:, None], torch.from_numpy(labels)
    batch, epochs = settings["batch"], settings["epochs"]
    steps = len(x) // batch
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(judge.parameters(), settings["lr"], weight_decay=settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings["lr"], epochs * steps)
    judge.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x))[: steps * batch].split(batch):
            optimizer.zero_grad(set_to_none=True)
            loss_of(judge(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()
    judge.eval()
