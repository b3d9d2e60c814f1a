"""A layer norm with a weight for every pixel: its weights are values, and grow with the grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

GROWS = {"mode": "supersample", "method": "dilate"}


def network(norm: nn.Module, dims: int = 2) -> nn.Module:
    torch.manual_seed(0)
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    if norm.elementwise_affine:
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias)
    return nn.Sequential(conv(3, 4, 3, 2, 1), norm, nn.ReLU(), conv(4, 2, 3, padding=1)).eval()


@pytest.mark.parametrize("shape", [[4, 8, 6], [8, 6]])
def test_a_constant_picture_gets_the_value_of_its_pixel(shape: Any, tmp_path: Path) -> None:
    """Dilated grids are aligned: pixel s m + q has the weight that pixel m had."""
    norm = nn.LayerNorm(shape)
    model = network(norm)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 12), **GROWS)
    assert larger[1].normalized_shape == (*shape[:-2], 16, 12)
    for q in range(2):
        assert torch.equal(larger[1].weight[..., q::2, 1::2], model[1].weight)
    y = torch.randn(1, 4, 8, 6)
    wide = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        assert torch.allclose(larger[1](wide)[..., ::2, 1::2], model[1](y), atol=1e-5)
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(network(nn.LayerNorm(shape)), tmp_path / "out.safetensors")
    x = torch.randn(1, 3, 32, 24)
    with torch.no_grad():
        assert torch.equal(loaded(x), larger(x))


def test_other_methods_interpolate_the_weights() -> None:
    model = network(nn.LayerNorm([4, 8, 8]))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(1, 2, 8).expand(4, 8, 8))
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16))  # an image is given back, so that it grows
    assert larger[1].weight.shape == (4, 16, 16)
    steps = larger[1].weight[0, 8].diff()
    assert (steps > 0).all()
    assert torch.allclose(larger[1].weight.mean(), model[1].weight.mean(), atol=1e-3)


def test_without_weights_the_shape_alone_grows_and_a_reader_that_absorbs_leaves_it() -> None:
    model = network(nn.LayerNorm([4, 8, 8], elementwise_affine=False))
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), **GROWS)
    assert larger[1].normalized_shape == (4, 16, 16)
    absorbed = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), mode="absorb")
    assert absorbed[1].normalized_shape == (4, 8, 8)


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims: int) -> None:
    model = network(nn.LayerNorm([4, *[6] * dims]), dims)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, *[12] * dims), **GROWS)
    assert larger[1].normalized_shape == (4, *[12] * dims)
    assert larger(torch.zeros(1, 3, *[24] * dims)).shape == (1, 2, *[12] * dims)


def test_a_norm_over_the_features_of_tokens_is_left() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.norm, self.read = nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            return self.read(self.norm(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    larger = rkt.rescale(Tokens(), 2, torch.zeros(1, 3, 16, 16), modes={"patch": "supersample"})
    assert larger.norm.normalized_shape == (4,)


def test_a_weight_that_is_not_selected_is_refused_by_name() -> None:
    with pytest.raises(
        rk.RekernelError,
        match=r"^1: a layer norm .*\(4x8x8\), whose grid grows, is not sel.* include=; mode='absorb' works",
    ):
        rkt.rescale(network(nn.LayerNorm([4, 8, 8])), 2, torch.zeros(1, 3, 16, 16), exclude=["1.*"], **GROWS)


class Joined(nn.Module):
    """A network whose image and features have one size: the norm is told by its channels, or by the order of calls."""

    def __init__(self, channels: int, on_image: bool) -> None:
        super().__init__()
        self.read, self.on_image = nn.Conv2d(3, channels, 3, padding=1), on_image
        self.norm = nn.LayerNorm([3 if on_image else channels, 16, 16])
        self.last = nn.Conv2d(channels + 3, 2, 3, padding=1)

    def forward(self, x: Any) -> Any:
        y, x = (self.read(x), self.norm(x)) if self.on_image else (self.norm(self.read(x)), x)
        return self.last(torch.cat([y, x], 1)).mean((2, 3))


def heads(norm: nn.Module) -> list[nn.Module]:
    return [norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]


@pytest.mark.parametrize("mode", ["auto", "absorb"])
@pytest.mark.parametrize("scale", [2, (1, 3), 1.5])
@pytest.mark.parametrize("readers", [
    [nn.Conv2d(3, 4, 3, padding=1)],
    [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 5, padding=2)],
    [nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm([16, 16]), nn.MaxPool2d(3, 1, 1)],
    [nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)],
], ids=len)  # fmt: skip
def test_behind_a_reader_that_absorbs_nothing_grows_though_the_image_has_the_size_of_the_norm(
    readers: Any, scale: Any, mode: str
) -> None:
    model = nn.Sequential(*readers, *heads(nn.LayerNorm([4, 16, 16]))).eval()
    larger = rkt.rescale(model, scale, torch.zeros(1, 3, 16, 16), mode=mode)
    norms = [tuple(m.normalized_shape) for m in larger.modules() if isinstance(m, nn.LayerNorm)]
    assert norms[-1] == (4, 16, 16)
    assert larger.rekernel_plan.checked.startswith("exact")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_in_front_of_the_reader_and_among_growing_layers_they_still_grow(dims: int) -> None:
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    side = [8] * dims
    model = nn.Sequential(nn.LayerNorm([3, *side]), conv(3, 4, 3, padding=1), nn.LayerNorm([4, *side])).eval()
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, *side), **GROWS)
    assert [m.normalized_shape[-1] for m in (larger[0], larger[2])] == [16, 16]
    absorbed = nn.Sequential(conv(3, 4, 3, padding=1), nn.LayerNorm([4, *side]), conv(4, 3, 3, padding=1)).eval()
    modes = {"0": "absorb", "2": "supersample"}
    assert rkt.rescale(absorbed, 2, torch.zeros(1, 3, *side), modes=modes)[1].normalized_shape[-1] == 8


@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize("on_image", [False, True])
def test_an_image_beside_its_features(channels: int, on_image: bool) -> None:
    """With three channels everywhere the shapes are the same, and the order of the calls tells."""
    model = Joined(channels, on_image).eval()
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), mode="supersample")
    assert larger.norm.normalized_shape[1:] == (32, 32)
    absorbed = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16))  # the image is read beside features
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(absorbed(x), model(nn.functional.avg_pool2d(x, 2)), atol=1e-5)
