"""The networks that several processes share, each with an input of its trained size and one of the new size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import rekernel.torch as rkt

SCALE = 2


class Conv(nn.Module):
    """A batch norm, a shared weight, five rows for two processes, and one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.two.weight = self.one.weight
        self.five, self.last = nn.Conv2d(8, 5, 3, padding=1), nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.last(self.five(self.two(self.one(self.norm(self.stem(x)).relu()))))


def unet() -> nn.Module:
    from diffusers import UNet2DModel

    made: nn.Module = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return made


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    return ViTForImageClassification(config)


@dataclass(frozen=True)
class Network:
    """A network, and how fully_shard takes it.

    build : makes the network at its trained size, with random weights
    shards : classes whose modules fully_shard takes one by one
    tied : modules with one weight, which fully_shard takes together
    """

    build: Callable[[], nn.Module]
    shards: tuple[str, ...]
    arguments: Callable[[Any], tuple[Any, ...]] = lambda image: (image,)
    tied: tuple[str, ...] = ()

    def example(self, device: str = "cpu") -> tuple[Any, ...]:
        return self.arguments(torch.zeros(1, 3, 16, 16, device=device))

    def rescaled(self, **settings: Any) -> nn.Module:
        """With random weights, the same ones each time, and statistics that are not those of a new batch norm."""
        torch.manual_seed(0)
        model = self.build().eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and "running" in name:
                tensor.uniform_(0.5, 1.5)
        return rkt.rescale(model, SCALE, self.example(), **settings)

    def answer(self, model: nn.Module, seed: int = 0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        found = model(*self.arguments(torch.rand(2, 3, 32, 32, generator=generator)))
        return next(iter(found.values())) if isinstance(found, dict) else found


NETWORKS = {
    "conv": Network(Conv, ("Conv2d",), tied=("one", "two")),
    "unet": Network(unet, ("ResnetBlock2D", "Attention"), lambda image: (image, torch.ones((), device=image.device))),
    "vit": Network(vit, ("ViTLayer",)),
}
