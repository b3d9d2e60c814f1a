"""Small networks whose traced plans are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Net(nn.Module):
    """A network whose forward is given to it."""

    def __init__(self, run: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        self._run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Any) -> Any:
        return self._run(self, x)


class Generator(nn.Module):
    """A linear layer that writes (16, 8, 8), then 32x32 pixels; the grid made in one of the ways people write."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.read = nn.Linear(10, 16 * 8 * 8)
        self.norm = nn.BatchNorm1d(16 * 8 * 8) if how == "norm" else nn.Identity()
        shape = (8, 8, 16) if how == "last" else (16, 8, 8)
        self.shape = nn.Unflatten(1, shape) if how in ("unflatten", "norm", "last") else nn.Identity()
        self.body = nn.Sequential(
            nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, z: Any) -> Any:
        x = self.shape(self.norm(self.read(z)).relu())
        if self.how == "view":
            x = x.view(-1, 16, 8, 8)
        if self.how == "functional":
            return self.body(F.interpolate(x.view(-1, 16, 8, 8), scale_factor=2))
        return self.body(x.permute(0, 3, 1, 2) if self.how == "last" else x)


class Autoencoder(nn.Module):
    """Image to vector to image; `single` has one linear layer for both ways."""

    def __init__(self, single: bool) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Flatten())
        sizes = [16 * 8 * 8] if single else [16 * 8 * 8, 12]
        self.middle = nn.Sequential(*(nn.Linear(n, m) for n, m in zip(sizes, [*sizes[1:], 1024], strict=True)))
        self.up = nn.Sequential(
            nn.Unflatten(1, (16, 8, 8)), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)
        )

    def forward(self, x: Any) -> Any:
        return self.up(self.middle(self.down(x)))


class Tokens(nn.Module):
    """A small ViT in timm's manner: patches, class tokens, a learned table, attention."""

    def __init__(self, grid: tuple[int, int], prefix: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, prefix, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, prefix + grid[0] * grid[1], 8))
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.mix(x + F.scaled_dot_product_attention(x, x, x))


class Tied(nn.Module):
    """Two layers with one weight, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.b.weight = self.a.weight
        self.again = self.a

    def forward(self, x: Any) -> Any:
        return self.again(self.b(self.a(x)))


class Same(nn.Conv2d):
    """Pads in a forward of its own, as timm's Conv2dSame does."""

    mode = "constant"

    def forward(self, x: Any) -> Any:
        return super().forward(F.pad(x, (0, 1, 0, 1), mode=self.mode))


class Mirrored(Same):
    mode = "reflect"


def conv(**more: Any) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, **{"padding": 1, **more})


def padded(mode: str, pad: tuple[int, ...], k: int = 3, stride: int = 2) -> Callable[[], nn.Module]:
    return lambda: Net(lambda m, x: m.conv(F.pad(x, pad, mode=mode)), conv=nn.Conv2d(4, 4, k, stride))
