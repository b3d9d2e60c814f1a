"""Classify pictures by a small convolutional network, whose last features say how far generated pictures are from true.

Scope: the network, its training and its features. Not here: what it is trained on (see `glyph_features` of
benchmarks/accuracy and `train_judge` of examples/fashion_diffusion), the distance of features (see `frechet`).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CLASSES = 10


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
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads: (B, 1, S, S) to (B, F)."""
        return self.stages(x).mean((2, 3))


def fit(judge: Judge, images: NDArray[np.float32], labels: NDArray[np.int64], settings: dict[str, Any]) -> None:
    """AdamW, one learning-rate cycle; in place. `settings`: 'epochs', 'batch', 'lr', 'weight_decay'."""
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


@torch.no_grad()
def look(judge: Judge, images: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, S, S) pictures in [0, 1] to the judge's features, (N, F), and its probabilities, (N, 10)."""
    x = torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None]
    features = torch.cat([judge.features(part) for part in x.split(200)])
    return features.double().numpy(), judge.fc(features).double().softmax(1).numpy()
