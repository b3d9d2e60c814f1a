"""The five small classifiers of the Fashion-MNIST tables, and their shipped weights.

Scope: networks for a picture size, and reading and writing their weights. Not here: training (see `fashion_train`).
Each network is built for the size that it is trained at. The kernels of the first three convolutional networks do not
depend on it; the MLP's and the VGG's linear layers do, and the vision transformer keeps 7x7 patches at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CLASSES = 10
SEEDS = (0, 1, 2)
SHIPPED = (14, 7, 28)  # sizes whose weights are in `weights/`
WEIGHTS = Path(__file__).resolve().parent / "weights" / "fashion"


def mlp(size: int) -> nn.Module:
    """Two hidden layers on the flattened picture."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size * size, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, CLASSES)
    )


def cnn(size: int) -> nn.Module:
    """Three strided convolutions (a stride of 8 in all), batch norm, global average pooling."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def vgg(size: int) -> nn.Module:
    """Convolutions of stride 1, max pooling, and linear layers after a flatten; no norm, and so He's first weights."""
    last = size // 2 // 2
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * last * last, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


class Residual(nn.Module):
    """Two convolutions, the first strided, and a strided 1x1 convolution around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def resnet(size: int) -> nn.Module:
    """A convolution of stride 1 and three strided residual blocks (a stride of 8 in all)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        Residual(8, 12, 2), Residual(12, 24, 2), Residual(24, 48, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES),
    )  # fmt: skip


class ViT(nn.Module):
    """A vision transformer: 7x7 patches at every size, learnt positions, a class token, pre-norm blocks."""

    def __init__(self, size: int, width: int = 32, depth: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, size // 7, size // 7)
        nn.init.kaiming_normal_(self.patches.weight)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 7 * 7 + 1, width) * 0.02)
        block = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])  # type: ignore[no-any-return]


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"MLP": mlp, "CNN": cnn, "VGG": vgg, "ResNet": resnet, "ViT": ViT}
NAMES = {"MLP": "MLP", "CNN": "strided CNN", "VGG": "VGG-like", "ResNet": "ResNet", "ViT": "ViT"}


def weights_file(name: str, size: int) -> Path:
    """One file for a network at a size; it holds every seed."""
    return WEIGHTS / f"{name.lower()}-{size}.safetensors"


def load_network(name: str, size: int, seed: int) -> nn.Module:
    """The shipped network of this seed, in evaluation mode."""
    path, prefix = weights_file(name, size), f"seed{seed}."
    if not path.exists():
        raise SystemExit(f"{path}: not there; train the networks with `python benchmarks/real/fashion.py --train`")
    state = {k.removeprefix(prefix): v.float() for k, v in load_file(path).items() if k.startswith(prefix)}
    if not state:
        raise SystemExit(f"{path}: holds no seed {seed}")
    model = NETWORKS[name](size)
    model.load_state_dict(state, strict=False)  # batch norm's counters of batches are not stored
    return model.eval()


def save_network(model: nn.Module, name: str, size: int, seed: int) -> None:
    """Add this seed to the network's file, in float16."""
    path = weights_file(name, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = load_file(path) if path.exists() else {}
    held |= {f"seed{seed}.{k}": v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    save_file(held, path)
