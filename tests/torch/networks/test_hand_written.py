"""Networks as people write them (benchmarks/accuracy/zoo.py): an MLP, a VGG, a generator, each with its own pitfall."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402


def test_mlp(check: Any) -> None:
    """Dilation has no meaning on a grid, 'nearest' stands in: exact for area averages, by duality. Dense .09."""
    errors = check.of_the_zoo("MLP")
    assert errors.untouched is None  # it takes no other size
    assert errors.dilated < 1e-5
    assert errors.dense < 0.12


def test_vgg_absorbs_at_its_flatten(check: Any) -> None:
    """Dense .22, factored .19, dilated .25: maximum pooling picks among other pixels, in every form; it is most of the
    error, and the flatten (exact for a dilated network, see the MLP) hardly any."""
    errors = check.of_the_zoo("VGG, flatten")
    assert errors.untouched is None
    assert max(errors.dense, errors.factored) < 0.35, errors
    assert errors.factored < errors.dense < errors.dilated, errors


def test_vgg_absorbs_at_an_adaptive_pooling(check: Any) -> None:
    """Dense .15, factored .17, dilated .17, untouched .36."""
    errors = check.of_the_zoo("VGG, adaptive pooling")
    assert errors.dense < errors.dilated < errors.untouched / 2, errors
    assert errors.factored < errors.untouched / 2, errors
    model, x = check.ZOO["VGG, adaptive pooling"].build(), torch.zeros(1, 3, 28, 28)
    plan = rkt.rescale(model, 2, x, mode="supersample").rekernel_plan
    assert [c.name for c in plan.changed] == ["0.weight", "3.weight"]


@pytest.mark.parametrize("name", ["MLP", "VGG, flatten", "VGG, adaptive pooling"])
def test_a_classifier_absorbs_where_it_reads_the_image_by_default(name: str, check: Any) -> None:
    """Then it computes exactly what it computed of the reduced image."""
    net = check.ZOO[name]
    model, x = check.revived(net.build()), torch.randn(2, 3, *(2 * n for n in net.size))
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, *net.size))
    assert [(c.mode, c.operators[0].method) for c in larger.rekernel_plan.changed] == [("absorb", "area")]
    with torch.no_grad():
        assert torch.allclose(larger(x), model(nn.functional.avg_pool2d(x, 2)), atol=1e-5)


def test_generator(check: Any) -> None:
    """Dense .06, dilated .20, untouched .70. Only the last convolution is dilated; pixel 0 then stays pixel 0 on every
    grid, that of the latent, too, and the image lies beside its place."""
    errors = check.of_the_zoo("generator, transposed")
    assert max(errors.dense, errors.factored) < errors.untouched / 5, errors
    assert errors.dense < errors.dilated / 3


def test_a_transposed_convolution_is_never_dilated() -> None:
    """Twice the stride on taps twice as far apart would never meet every other output pixel."""
    layer = nn.ConvTranspose2d(1, 1, 4, 2, 1, bias=False)
    nn.init.ones_(layer.weight)
    holes = nn.functional.conv_transpose2d(torch.ones(1, 1, 16, 16), layer.weight, stride=2, padding=3, dilation=2)
    assert (holes == 0).float().mean() > 0.7
    for method in ("dilate", "optimal", "auto"):
        larger = rkt.rescale(layer, 2, torch.zeros(1, 1, 8, 8), method=method)
        assert larger.dilation == (1, 1)
        with torch.no_grad():
            assert (larger(torch.ones(1, 1, 16, 16)) != 0).all(), method


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
    assert "not a whole number" in " ".join(rkt.rescale(model, (2, 1.5), x, form="factored").rekernel_plan.warnings)


def test_a_single_layer_is_a_model_too() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1)
    assert rkt.rescale(layer, 2, torch.zeros(1, 1, 8, 8), method="optimal").kernel_size == (5, 5)
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
