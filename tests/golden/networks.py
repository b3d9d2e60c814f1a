"""The small networks whose files 0.1.0 wrote, with waves for weights.

Waves, so that no generator of random numbers has to stay as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def waves(*shape: int, step: float = 0.7) -> torch.Tensor:
    """Values between -1 and 1."""
    count = torch.Size(shape).numel()
    return torch.sin(step * torch.arange(count, dtype=torch.float64) + 0.3).reshape(shape).float()


def filled(model: nn.Module) -> nn.Module:
    """The model with waves for weights, of a size that lets the input through."""
    with torch.no_grad():
        for i, (name, p) in enumerate(sorted(model.state_dict().items())):
            if not p.is_floating_point():
                continue
            small = 1.0 / max(p[0].numel() if p.ndim > 1 else 1, 1) ** 0.5
            around = 1.0 if p.ndim == 1 and name.endswith(("weight", "running_var")) else 0.0
            p.copy_(around + (1 - 0.5 * around) * small * waves(*p.shape, step=0.7 + 0.11 * (i % 7)))
    return model.eval()


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1, groups=2),
        nn.ReLU(), nn.Conv2d(2, 1, 5, padding=2),
    )  # fmt: skip


class Pools(nn.Module):
    """Poolings, padding by hand, dilation, a stride, a transposed convolution and a reflection."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")
        self.most, self.mean = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)
        self.hand = nn.Conv2d(2, 4, 3, 2)
        self.wide = nn.Conv2d(4, 2, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1)

    def forward(self, x: Any) -> Any:
        x = self.most(self.first(x).relu())
        x = self.hand(nn.functional.pad(x, (0, 1, 0, 1))).relu()
        return self.up(self.wide(self.mean(x)))


class Mirrored(nn.Module):
    """Padding by hand, by reflection and around the image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3, 2)

    def forward(self, x: Any) -> Any:
        x = self.a(nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")).relu()
        return self.b(nn.functional.pad(x, (1, 0, 1, 0), mode="circular"))


class Small(nn.Module):
    """A linear layer that writes (4, 4, 4), then 8x8 pixels; the grid made by a module or by the model's own code."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.read = nn.Linear(4, 64)
        self.shape = nn.Unflatten(1, (4, 4, 4)) if how == "unflatten" else nn.Identity()
        self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 3, 4, 2, 1))

    def forward(self, z: Any) -> Any:
        x = self.shape(self.read(z).relu())
        return self.body(x.view(-1, 4, 4, 4) if x.ndim == 2 else x)


def flattened() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 4), nn.ReLU(),
        nn.Linear(4, 3),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 4), nn.ReLU(), nn.Linear(4, 3))


def autoencoder() -> nn.Module:
    """Image to vector to image."""
    return nn.Sequential(
        nn.Conv2d(3, 2, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 8 * 8, 2), nn.Linear(2, 64),
        nn.Unflatten(1, (1, 8, 8)), nn.ConvTranspose2d(1, 3, 4, 2, 1),
    )  # fmt: skip


def volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 2, (3, 3, 1), (1, 2, 1), (1, 1, 0)), nn.ReLU(), nn.Conv3d(2, 1, 3, padding=1))


def signal() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 5, 2, 2), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=1))


def normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1)), nn.ReLU())


def mixed() -> nn.Module:
    """Layers of which form='auto' makes two dense and one factored."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(),
        nn.Conv2d(4, 2, 1), nn.Conv2d(2, 24, 5, 2, 2),
    )  # fmt: skip


def swin() -> nn.Module:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(depths=[2], num_heads=[2], embed_dim=4, image_size=16, window_size=2, mlp_ratio=1.0)
    return SwinModel(config, add_pooling_layer=False)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4, image_size=16, patch_size=4
    )
    return ViTModel(config, add_pooling_layer=False)


def unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(2, 2),
        norm_num_groups=1, attention_head_dim=2, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
