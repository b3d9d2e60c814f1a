"""The model's code reads the size of the image itself, so that a layer that absorbs cannot do all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

X = torch.zeros(1, 3, 32, 32)


class Decoder(nn.Module):
    """Enlarges its features to the size of the image, as the decoder of a U-Net without a fixed depth does."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.up(F.interpolate(self.down(x).relu(), size=x.shape[2:], mode="nearest"))


class Stamp(nn.Module):
    """Refuses any other image than the trained one, in its own words."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        if x.shape[-1] != 32:
            raise ValueError(f"Input image size ({x.shape[-1]}) doesn't match model (32).\nPlease resize.")
        return self.head(self.conv(x).mean((2, 3)))


class Corner(nn.Module):
    """Adds a value that its code computes from the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.conv(x).mean((2, 3))) * (x.shape[-1] / 32)


@pytest.mark.parametrize("kind", [Decoder, Stamp, Corner])
def test_the_image_is_resampled_in_front_and_the_plan_says_why(kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    larger = rkt.rescale(model, 2, X, mode="absorb")
    plan = larger.rekernel_plan
    assert plan.resamples
    assert not plan.changed
    (note,) = plan.warnings
    assert "cannot absorb the scale (" in note
    assert "mode=" not in note
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(larger(x), model(F.avg_pool2d(x, 2)), atol=1e-5, rtol=1e-4)
    rkt.save(larger, tmp_path / "out.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(rkt.load(kind().eval(), tmp_path / "out.safetensors")(x), larger(x))


def test_what_does_not_work_in_front_either_is_refused_for_the_first_reason() -> None:
    """A second picture of another size is not resampled in front."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

        def forward(self, x: Any, y: Any) -> Any:
            if x.shape[-1] * 2 != y.shape[-1]:
                raise ValueError(f"{x.shape[-1]} and {y.shape[-1]} do not fit")
            return self.head(self.conv(x).mean((2, 3)))

    model = Two().eval()
    with pytest.raises(rk.RekernelError, match="64 and 64 do not fit"):
        rkt.rescale(model, 2, (X, torch.zeros(1, 3, 64, 64)))
    assert model(X, torch.zeros(1, 3, 64, 64)).shape == (1, 5)


class Pyramid(nn.Module):
    """Pools the features to a few cells and enlarges these to the size of the features (PSPNet, UperNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bins = nn.Conv2d(3, 8, 3, 2, 1), nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(3))
        self.head = nn.Conv2d(8 + 3 * 4, 2, 3, padding=1)

    def forward(self, x: Any) -> Any:
        y = self.stem(x).relu()
        pooled = [F.adaptive_avg_pool2d(y, n) for n in (1, 2, 4)]
        found = [F.interpolate(c(p), y.shape[2:], mode="bilinear") for c, p in zip(self.bins, pooled, strict=True)]
        return self.head(torch.cat([y, *found], 1))


def test_a_pyramid_of_poolings_grows_to_the_size_of_its_features() -> None:
    torch.manual_seed(0)
    model = Pyramid().eval()
    larger = rkt.rescale(model, 2, X)
    assert larger(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 32, 32)
    flat = torch.randn(1, 3, 1, 1)
    with torch.no_grad():
        new, old = larger(flat.expand(1, 3, 64, 64)), model(flat.expand(1, 3, 32, 32))
    torch.testing.assert_close(new[..., 14:18, 14:18], old[..., 7:9, 7:9].repeat(1, 1, 2, 2), atol=1e-3, rtol=1e-3)


def test_positions_of_features_are_followed_whatever_their_strides() -> None:
    """`view` suits a product of matrices in order, though its factors were transposed before (LeViT, MAnet)."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            n, c, h, w = y.shape
            v = y.flatten(2).transpose(1, 2).contiguous().transpose(1, 2)
            weights = torch.softmax(v.transpose(1, 2) @ v, -1)
            return self.head((v @ weights.transpose(1, 2)).view(n, c, h, w).mean((2, 3)))

    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rkt.rescale(model, 2, X)(x), model(F.avg_pool2d(x, 2)), atol=1e-5, rtol=1e-4)
