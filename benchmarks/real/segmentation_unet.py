"""A U-Net of three levels that names the class of every pixel: its layers, its training, its file.

Scope: the network. Not here: scenes and their measure (see `segmentation_scenes`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WIDTHS = (16, 32, 64)
RATE = 3e-3

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""From the number of a step to its pictures (N, 1, H, W) and true classes (N, H, W)."""


class UNet(nn.Module):
    """(N, 1, H, W) to logits (N, classes, H, W); H and W are multiples of 4.

    Examples
    --------
    >>> UNet(11)(torch.zeros(1, 1, 48, 48)).shape
    torch.Size([1, 11, 48, 48])
    """

    def __init__(self, classes: int, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.fine, self.middle, self.coarse = pair(1, fine), pair(fine, middle), pair(middle, coarse)
        self.halve = nn.MaxPool2d(2)
        self.to_middle = nn.Sequential(nn.Upsample(scale_factor=2), *single(coarse, middle))
        self.merge_middle = pair(2 * middle, middle)
        self.to_fine = nn.Sequential(nn.Upsample(scale_factor=2), *single(middle, fine))
        self.merge_fine = pair(2 * fine, fine)
        self.head = nn.Conv2d(fine, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        middle = self.middle(self.halve(fine))
        coarse = self.coarse(self.halve(middle))
        middle = self.merge_middle(torch.cat([self.to_middle(coarse), middle], 1))
        fine = self.merge_fine(torch.cat([self.to_fine(middle), fine], 1))
        logits: Tensor = self.head(fine)
        return logits


def single(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


def pair(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(*single(channels, out), *single(out, out))


def train(draw: Draw, classes: int, *, steps: int, seed: int, say: Callable[[str], None] = print) -> UNet:
    """A U-Net trained by Adam with a rate that rises for a tenth of the steps and falls as a cosine."""
    torch.manual_seed(seed)
    model = UNet(classes)
    adam = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min((step + 1) / (steps / 10), (1 + math.cos(math.pi * step / steps)) / 2)
    )
    began, recent = time.perf_counter(), 0.0
    for step in range(steps):
        pictures, truth = draw(step)
        loss = nn.functional.cross_entropy(model(pictures), truth)
        adam.zero_grad()
        loss.backward()
        adam.step()
        rates.step()
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if (step + 1) % 100 == 0:
            say(f"step {step + 1} of {steps}: loss {recent:.3f}, {time.perf_counter() - began:.0f} s")
    return model.eval()


def save(model: UNet, file: Path) -> None:
    """Write the weights as float16."""
    state = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file({name: t.contiguous() for name, t in state.items()}, file)


def load(file: Path, classes: int) -> UNet:
    """A U-Net in evaluation mode with the weights of `file`, as float32."""
    model = UNet(classes)
    model.load_state_dict(load_file(file))
    return model.eval()
