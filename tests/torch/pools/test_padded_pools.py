"""Poolings behind padding that the model's code adds, and subclasses that pad in their own forward method."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402

DILATED = {"mode": "supersample", "method": "dilate"}
CENTRED = {"mode": "supersample", "method": "optimal"}


class Behind(nn.Module):
    """A pooling behind explicit padding."""

    def __init__(self, pad: Any, pool: nn.Module, mode: str = "constant", value: float | None = None) -> None:
        super().__init__()
        self.pad, self.pool, self.mode, self.value = pad, pool, mode, value

    def forward(self, x: Any) -> Any:
        return self.pool(F.pad(x, self.pad, self.mode, self.value))


POOLS = [
    nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2),
    nn.AvgPool2d(2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(3, 2, ceil_mode=True),
    nn.AvgPool2d(3, 2, divisor_override=4),
]  # fmt: skip


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("pad", [(0, 1, 0, 1), (1, 1, 1, 1), (2, 1, 0, 2)])
@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_zeros_in_front_of_a_pooling_grow_with_the_image(pool: Any, pad: Any, scale: int, tmp_path: Any) -> None:
    """At phase 0 exactly. Negative pixels: to a maximum a zero is something else than nothing."""
    net = Behind(pad, pool)
    model = rkt.rescale(net, scale, torch.zeros(1, 2, 12, 15), **DILATED)
    x = -torch.rand(1, 2, 12 * scale, 15 * scale)
    y, right = model(x), net(x[..., ::scale, ::scale])
    assert y.shape[2:] == tuple(scale * n for n in right.shape[2:])
    assert torch.allclose(y[..., ::scale, ::scale], right, atol=1e-6)
    rkt.save(model, tmp_path / "out.safetensors")
    assert torch.equal(rkt.load(Behind(pad, pool), tmp_path / "out.safetensors")(x), y)


def test_zeros_of_a_module_grow_too_where_no_pixel_is_aligned() -> None:
    net = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))
    x = torch.rand(1, 2, 32, 32)
    y = rkt.rescale(net, 2, torch.zeros(1, 2, 16, 16), **CENTRED)(x)
    assert y.shape == (1, 2, 16, 16)
    near = F.max_pool2d(F.pad(x, (2, 4, 2, 4)), 3, 2, dilation=2)
    assert any(torch.equal(near[..., i : i + 16, j : j + 16], y) for i in (0, 1, 2) for j in (0, 1, 2))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_in_front_of_a_pooling_is_refused_by_name(mode: str) -> None:
    with pytest.raises(RekernelError, match=f"pool: code in front of this pooling pads by '{mode}'.*give the padding"):
        rkt.rescale(Behind((1, 1, 1, 1), nn.MaxPool2d(3, 2), mode), 2, torch.zeros(1, 2, 16, 16), **DILATED)


def around(m: Any, x: Any) -> list[int]:
    """TensorFlow's 'SAME'."""
    sides = []
    for n in x.shape[:1:-1]:
        total = max((math.ceil(n / m.stride) - 1) * m.stride + m.kernel_size - n, 0)
        sides += [total // 2, total - total // 2]
    return sides


class SameMax(nn.MaxPool2d):
    """As timm's MaxPool2dSame."""

    def forward(self, x: Any) -> Any:
        return F.max_pool2d(F.pad(x, around(self, x), value=-float("inf")), self.kernel_size, self.stride)


class SameAverage(nn.AvgPool2d):
    """As timm's AvgPool2dSame."""

    def forward(self, x: Any) -> Any:
        return F.avg_pool2d(F.pad(x, around(self, x)), self.kernel_size, self.stride, 0, self.ceil_mode)


class Named(nn.MaxPool2d):
    """A forward method that only asks something first."""

    def forward(self, x: Any) -> Any:
        assert x.ndim == 4
        return super().forward(x)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("size", [(16, 13), (14, 15)])
@pytest.mark.parametrize("pool", [
    SameMax(3, 2), SameMax(2, 2), SameMax(3, 1), SameAverage(3, 2), SameAverage(2, 2), SameAverage(4, 3),
    Named(3, 2, 1),
], ids=repr)  # fmt: skip
def test_a_subclass_that_pads_and_pools_is_rescaled(pool: Any, size: Any, scale: int) -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1), pool)
    model = rkt.rescale(net, scale, torch.zeros(1, 2, *size), **DILATED)
    x = torch.randn(1, 2, *(scale * n for n in size))
    with torch.no_grad():
        y, right = model(x), net(x[..., ::scale, ::scale])
    assert y.shape[2:] == tuple(scale * n for n in right.shape[2:])
    assert torch.allclose(y[..., ::scale, ::scale], right, atol=1e-6)


class Sharpened(nn.AvgPool2d):
    def forward(self, x: Any) -> Any:
        return x[..., ::2, ::2] - super().forward(x)


class ZeroMax(nn.MaxPool2d):
    def forward(self, x: Any) -> Any:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (Sharpened(2), "1: this Sharpened does more in its forward method"),
        (ZeroMax(3, 2), "1: the forward method of this ZeroMax pads by 0 before it pools"),
    ],
)
def test_a_subclass_that_does_more_is_refused_by_name(pool: nn.Module, words: str) -> None:
    with pytest.raises(RekernelError, match=words):
        rkt.rescale(nn.Sequential(nn.Conv2d(2, 2, 1), pool), 2, torch.zeros(1, 2, 16, 16), **DILATED)


class MaxPoolBlock(nn.Module):
    """Named like a pooling, but it is none of torch's."""

    def forward(self, x: Any) -> Any:
        return F.max_pool2d(x, 2)


def test_a_class_that_is_only_named_like_a_pooling_is_named() -> None:
    model = rkt.rescale(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), MaxPoolBlock()), 2, torch.zeros(1, 2, 16, 16))
    [note] = [note for note in model.rekernel_plan.warnings if "functional" in note]
    assert note.startswith("1: a functional max-pool") and "nn.MaxPool2d" in note
