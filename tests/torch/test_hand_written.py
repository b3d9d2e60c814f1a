"""Networks as people write them: an MLP, a VGG with a flatten, a generator, each with its own pitfall."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 32), nn.ReLU(), nn.Linear(32, 10))


def vgg(pool: nn.Module | None = None, side: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), pool or nn.Identity(), nn.Flatten(), nn.Linear(16 * side * side, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


def generator() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, 1, 0), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1), nn.Tanh(),
    )  # fmt: skip


def test_mlp(check: Any) -> None:
    errors = check.architecture(mlp, 3, (16, 16), grows=None)
    assert errors.untouched is None
    # Dilation has no meaning on a grid, 'nearest' stands in: exact for area averages, by duality.
    assert errors.dilated < 1e-5
    assert errors.dense < 0.12


def test_vgg_absorbs_at_its_flatten(check: Any) -> None:
    errors = check.architecture(vgg, 3, (32, 32), grows=None)
    assert errors.untouched is None
    # Maximum pooling picks among other pixels in every form: .29 dense, .28 factored, .25 dilated.
    assert errors.dense < 0.35


def test_vgg_absorbs_at_an_adaptive_pooling(check: Any) -> None:
    build = lambda: vgg(nn.AdaptiveAvgPool2d(7), side=7)  # noqa: E731
    errors = check.architecture(build, 3, (28, 28), grows=None)
    assert errors.dense < errors.untouched
    model = build()
    plan = rkt.rescale(model, 2, torch.zeros(1, 3, 28, 28)).rekernel_plan
    assert [c.name for c in plan.changed] == ["0.weight", "3.weight"]


def test_generator(check: Any) -> None:
    """A latent grid grows like any image. Smooth kernels, as trained ones are: what a random kernel of stride 2 draws
    is a checkerboard, which no rescaling keeps (error near 1 in every form)."""

    def smoothed(model: nn.Module) -> None:
        for layer in model:
            if isinstance(layer, nn.ConvTranspose2d):
                k = layer.kernel_size[0]
                taps = torch.tensor({4: [1.0, 3, 3, 1], 3: [1.0, 2, 1]}[k])
                mix = torch.randn(*layer.weight.shape[:2], 1, 1) * layer.weight.shape[0] ** -0.5
                layer.weight.data = mix * torch.outer(taps, taps) / 16

    errors = check.architecture(generator, 8, (16, 16), prepare=smoothed)
    assert errors.dense < errors.untouched


def test_scale_per_axis(check: Any) -> None:
    net = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 5, padding=2)
    )
    model = net()
    x = torch.zeros(1, 3, 24, 32)
    larger = rkt.rescale(model, (2, 1.5), x)
    assert larger(torch.zeros(1, 3, 48, 48)).shape == (1, 4, 24, 24)
    fine = check.smooth((48, 48), 3)
    assert rkt.equivariance_error(model, larger, fine) < rkt.equivariance_error(model, model, fine, size=(24, 32)) / 2
    assert "no whole number" in " ".join(rkt.rescale(model, (2, 1.5), x, form="factored").rekernel_plan.warnings)


def test_a_single_layer_is_a_model_too() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1)
    assert rkt.rescale(layer, 2, torch.zeros(1, 1, 8, 8)).kernel_size == (5, 5)
    assert layer.kernel_size == (3, 3)


def test_flatten_channels_last() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(3 * 8 * 8, 5)

        def forward(self, x: Any) -> Any:
            return self.read(x.permute(0, 2, 3, 1).reshape(len(x), -1))

    model = Last()
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 8, 8), method="nearest")
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(larger(x.repeat_interleave(2, 2).repeat_interleave(2, 3)), model(x), atol=1e-5)
