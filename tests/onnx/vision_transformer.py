"""A small vision transformer that tests export."""

from __future__ import annotations

import torch
from torch import nn


class ViT(nn.Module):
    """Patches, a class token, positions and one block."""

    def __init__(self, size=16, patch=4, token=True):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, patch, patch)
        count = (size // patch) ** 2 + token
        self.token = nn.Parameter(torch.randn(1, 1, 16)) if token else None
        self.places = nn.Parameter(torch.randn(1, count, 16))
        self.norm, self.all, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.places
        q, k, v = self.all(self.norm(x)).reshape(x.shape[0], x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) * 8**-0.5).softmax(-1) @ v
        x = x + y.transpose(1, 2).flatten(2)
        return self.out(x[:, 0] if self.token is not None else x.mean(1))
