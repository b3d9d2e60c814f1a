"""Small random networks from a grammar of layers, functional calls, reshapes and pools.

A network is a list of parts. Each part maps (N, C, *spatial) to (N, C', *spatial'), and a head ends it with an image or
with classes. The same seed gives the same network.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

CONVS: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS: Any = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOLS: Any = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOLS: Any = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
TRANSPOSES: Any = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIDES = {1: 64, 2: 32, 3: 16}


class Call(nn.Module):
    """A functional call, with modules of its own if it needs any."""

    def __init__(self, call: Callable[..., Tensor], *inner: nn.Module) -> None:
        super().__init__()
        self.call, self.inner = call, nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, *self.inner)


class Builder:
    """Draw parts, and follow channels and pixels."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.dims = self.draw.choice([1, 2, 2, 2, 3])
        self.size = SIDES[self.dims]
        self.channels = self.draw.choice([1, 2, 3])
        self.shape = (2, self.channels, *[self.size] * self.dims)
        self.labels: list[str] = []

    def conv(self) -> nn.Module:
        k = self.draw.choice([1, 3, 3, 3, 4, 5])
        stride = self.draw.choice([1, 1, 1, 2]) if self.size > 8 else 1
        dilation = self.draw.choice([1, 1, 1, 2]) if k > 1 and self.size > 12 else 1
        mode = self.draw.choice(["zeros", "zeros", "circular", "reflect", "replicate"]) if k > 1 else "zeros"
        if self.dims == 3 and mode == "reflect":
            mode = "replicate"
        padding = dilation * (k // 2) if self.draw.random() < 0.85 else 0
        out = self.draw.choice([4, 6, 8])
        groups = 2 if self.channels % 2 == 0 and self.draw.random() < 0.2 else 1
        after = (self.size + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        if after < 2:
            return self.activation()
        layer = CONVS[self.dims](
            self.channels, out, k, stride, padding, dilation, groups, padding_mode=mode if padding else "zeros"
        )
        self.labels.append(f"conv k={k} t={stride} p={padding} d={dilation} {mode}")
        self.channels, self.size = out, after
        return layer

    def norm(self) -> nn.Module:
        norm = NORMS[self.dims](self.channels)
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2)
        self.labels.append("batch norm")
        return norm

    def activation(self) -> nn.Module:
        self.labels.append("activation")
        return self.draw.choice([nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.LeakyReLU])()

    def pool(self) -> nn.Module:
        k, stride = self.draw.choice([2, 3]), self.draw.choice([1, 2])
        padding, ceil = self.draw.choice([0, k // 2]), self.draw.random() < 0.3
        if self.size < 8:
            return self.activation()
        if self.draw.random() < 0.5:
            made = MAX_POOLS[self.dims](k, stride, padding, ceil_mode=ceil)
        else:
            made = AVG_POOLS[self.dims](k, stride, padding, ceil_mode=ceil, count_include_pad=self.draw.random() < 0.5)
        return self._measured(made, f"{made}")

    def enlarge(self) -> nn.Module:
        if self.size > SIDES[self.dims] // 2:
            return self.activation()
        if self.draw.random() < 0.5:
            out = self.draw.choice([4, 6])
            k, padding = self.draw.choice([(4, 1), (2, 0)])
            layer = TRANSPOSES[self.dims](self.channels, out, k, 2, padding)
            self.channels = out
            return self._measured(layer, "transposed convolution", was=layer.in_channels)
        mode = self.draw.choice(["nearest", {1: "linear", 2: "bilinear", 3: "trilinear"}[self.dims]])
        return self._measured(nn.Upsample(scale_factor=2, mode=mode), f"upsample {mode}")

    def residual(self) -> nn.Module:
        inner = CONVS[self.dims](self.channels, self.channels, 3, padding=1)
        self.labels.append("residual")
        return Call(lambda x, layer: x + layer(F.relu(x)), inner)

    def join(self) -> nn.Module:
        inner = CONVS[self.dims](self.channels, 2, 3, padding=1)
        self.channels += 2
        self.labels.append("concatenation")
        return Call(lambda x, layer: torch.cat([x, layer(x)], 1), inner)

    def excite(self) -> nn.Module:
        inner, axes = nn.Linear(self.channels, self.channels), tuple(range(2, 2 + self.dims))
        ones = (1,) * self.dims
        self.labels.append("squeeze and excite")
        return Call(lambda x, layer: x * torch.sigmoid(layer(x.mean(axes))).reshape(*x.shape[:2], *ones), inner)

    def padded(self) -> nn.Module:
        mode = self.draw.choice(["constant", "constant", "replicate", "circular"])
        sides = self.draw.choice([(1, 1), (0, 2), (2, 0)]) * self.dims
        layer = CONVS[self.dims](self.channels, 4, 3)
        self.channels = 4
        self.labels.append(f"pad by hand {mode}")
        return Call(lambda x, conv: conv(F.pad(x, sides, mode=mode)), layer)

    def shuffled(self) -> nn.Module:
        if self.channels % 2:
            return self.activation()
        c = self.channels
        self.labels.append("channel shuffle")
        return Call(lambda x: x.view(len(x), 2, c // 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape))

    def tokens(self) -> nn.Module:
        inner = nn.Linear(self.channels, self.channels)
        self.labels.append("linear layer on tokens")
        return Call(lambda x, layer: layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape), inner)

    def odd(self) -> nn.Module:
        """A call that counts pixels, so that no change of weights makes up for it."""
        name = self.draw.choice(sorted(ODD))
        return self._measured(Call(ODD[name]), f"odd: {name}")

    def _measured(self, made: nn.Module, label: str, was: int = 0) -> nn.Module:
        """A part whose output size is found by running it."""
        try:
            with torch.no_grad():
                out = made(torch.zeros(1, was or self.channels, *[self.size] * self.dims))
        except RuntimeError:  # an odd number of pixels cannot be grouped by two
            return nn.Identity()
        if min(out.shape[2:]) < 2 or len(set(out.shape[2:])) > 1:
            return nn.Identity()
        self.size = out.shape[2]
        if label:
            self.labels.append(label)
        return made

    def head(self) -> nn.Module:
        kind = self.draw.choice(["image", "image", "mean", "maximum", "flatten"])
        self.labels.append(f"head: {kind}")
        if kind == "image":
            return CONVS[self.dims](self.channels, 2, self.draw.choice([1, 3]), padding="same")
        if kind == "flatten":
            return nn.Sequential(nn.Flatten(), nn.Linear(self.channels * self.size**self.dims, 3))
        axes = tuple(range(2, 2 + self.dims))
        reduce = (lambda x: x.mean(axes)) if kind == "mean" else (lambda x: x.amax(axes))
        return nn.Sequential(Call(reduce), nn.Linear(self.channels, 3))


ODD: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x / x.abs().sum(-1, keepdim=True),
    "normalise": lambda x: F.normalize(x, dim=-1) * 4,
    "crop": lambda x: x[(..., *[slice(2, -1)] * (x.ndim - 2))],
    "roll": lambda x: torch.roll(x, 3, -1),
    "windows": lambda x: x.reshape(*x.shape[:-1], -1, 2).softmax(-1).flatten(-2) + x,
    "coordinates": lambda x: x + 0.2 * torch.arange(x.shape[-1]),
    "difference": lambda x: F.pad(x[..., 1:] - x[..., :-1], (0, 1)),
    "cumulative": lambda x: x.cumsum(-1),
    "sorted": lambda x: x.sort(-1).values,
    "gram": lambda x: torch.einsum("nc...,nd...->ncd", x, x).mean(2)[(...,) + (None,) * (x.ndim - 2)] * 0.1 + x,
}
"""Calls that do something else on a finer grid."""

PARTS = (
    ["conv"] * 6 + ["norm"] * 2 + ["activation"] * 3 + ["pool"] * 2
    + ["enlarge", "residual", "join", "excite", "padded", "shuffled", "tokens"]
)  # fmt: skip


def generated(seed: int, *, odd: float = 0.25) -> tuple[nn.Module, tuple[int, ...], list[str]]:
    """A network, the shape of its input, and the labels of its parts.

    Parameters
    ----------
    odd : float
        Share of the networks with a call that counts pixels.
    """
    torch.manual_seed(seed)
    builder = Builder(seed)
    parts = [builder.conv(), builder.activation()]
    count = builder.draw.randint(2, 6)
    special = builder.draw.randrange(count) if builder.draw.random() < odd else -1
    for number in range(count):
        name = "odd" if number == special else builder.draw.choice(PARTS)
        parts.append(getattr(builder, name)())
    return nn.Sequential(*parts, builder.head()).eval(), builder.shape, builder.labels
