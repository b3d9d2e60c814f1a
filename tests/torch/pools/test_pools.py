"""A rescaled pooling gives as many pixels as the trained one, times the scale, and reads what the trained one read.

What it reads is written here by hand, tap by tap; the trained pooling is torch's own.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel.torch as rkt  # noqa: E402

DILATED = {"mode": "supersample", "method": "dilate"}
CENTRED = {"mode": "supersample", "method": "optimal"}
SHAPES = [
    (k, t, p, n) for k, t, n in itertools.product((1, 2, 3, 4), (1, 2, 3), (7, 8, 9, 12)) for p in range(k // 2 + 1)
]


def large(pool: nn.Module, scale: Any, size: tuple[int, ...], **options: Any) -> nn.Module:
    """The rescaled pooling, in a model that does nothing else."""
    return rkt.rescale(nn.Sequential(pool), scale, torch.zeros(1, 2, *size), **options)


def windows(pool: Any, scale: int, n: int) -> list[tuple[list[int], int]]:
    """For each new output of a dilated pooling along one axis: the new pixels that it reads, and how many pixels count.

    Output s m + q reads what the trained pooling reads at m, on the picture that is moved by q times the stride.
    """
    old = pool(torch.zeros(1, 1, n)).shape[-1]
    k, t, p = pool.kernel_size, pool.stride, pool.padding
    (k,), (t,), (p,) = ((x if isinstance(x, tuple) else (x,)) for x in (k, t, p))
    d = getattr(pool, "dilation", 1)
    padded = p if getattr(pool, "count_include_pad", False) else 0
    found = []
    for m, q in itertools.product(range(old), range(scale)):
        taps = [scale * (m * t - p + j * d) + q * t for j in range(k)]
        counted = sum(-scale * padded <= x < scale * (n + padded) for x in taps)
        found.append(([x for x in taps if 0 <= x < scale * n], counted))
    return found


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("kind", ["maximum", "maximum, dilated", "average", "average, padding counts"])
def test_every_output_reads_the_taps_of_the_trained_one(kind: str, ceil: bool, scale: int) -> None:
    for k, t, p, n in SHAPES:
        if kind.startswith("maximum"):
            pool: Any = nn.MaxPool1d(k, t, p, dilation=2 if "dilated" in kind else 1, ceil_mode=ceil)
        else:
            pool = nn.AvgPool1d(k, t, p, ceil_mode=ceil, count_include_pad="counts" in kind)
        if pool(torch.zeros(1, 1, n)).shape[-1] == 1:
            continue  # the end of the grid: another test
        x = torch.randn(1, 2, scale * n)
        y, wanted = large(pool, scale, (n,), **DILATED)(x), windows(pool, scale, n)
        assert y.shape[-1] == len(wanted), (k, t, p, n)
        for i, (taps, counted) in enumerate(wanted):
            if not taps:  # beyond the last pixel: the answer next to it
                assert torch.equal(y[..., i], y[..., i - 1]), (k, t, p, n, i)
                continue
            read = x[..., taps]
            right = read.max(-1).values if kind.startswith("maximum") else read.sum(-1) / counted
            assert torch.allclose(y[..., i], right, atol=1e-6), (k, t, p, n, i)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("pool", [
    nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True),
    nn.MaxPool2d(2, 2), nn.MaxPool2d(3, 2, 1, dilation=2), nn.MaxPool2d(2, 2, ceil_mode=True),
    nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True),
    nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True),
    nn.AvgPool2d(2, 1, divisor_override=3), nn.AvgPool2d(3, 2, ceil_mode=True, divisor_override=5),
    nn.AvgPool2d((1, 3), 1, (0, 1)), nn.AvgPool2d(2, 3), nn.AvgPool2d(5, 1, 2),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("size", [(13, 16), (9, 11)])
def test_phase_0_is_torchs_own_answer_and_with_stride_1_every_phase_is(pool: Any, size: Any, scale: int) -> None:
    model = large(pool, scale, size, **DILATED)
    x = torch.randn(2, 2, *(scale * n for n in size))
    y, right = model(x), pool(x[..., ::scale, ::scale])
    assert y.shape[2:] == tuple(scale * n for n in right.shape[2:])
    assert torch.allclose(y[..., ::scale, ::scale], right, atol=1e-6)
    strides = pool.stride if isinstance(pool.stride, tuple) else (pool.stride,) * 2
    phases = [range(scale) if t == 1 else [0] for t in strides]
    for q, r in itertools.product(*phases):
        assert torch.allclose(y[..., q::scale, r::scale], pool(x[..., q::scale, r::scale]), atol=1e-6), (q, r)


@pytest.mark.parametrize("options", [DILATED, CENTRED], ids=["dilated", "centred"])
@pytest.mark.parametrize("scale", [2, 3, (2, 1), (3, 2)])
@pytest.mark.parametrize("pool", [
    nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.AvgPool2d(2), nn.AvgPool2d(3, 2), nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True),
    nn.AvgPool2d(2, 1), nn.AvgPool2d(4, 3, 2, count_include_pad=False, ceil_mode=True), nn.AvgPool2d((1, 2)),
    nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 2, ceil_mode=True), nn.MaxPool2d(1, 3), nn.MaxPool2d(3, 2, ceil_mode=True),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("size", [(15, 16), (19, 11)])
def test_the_average_or_maximum_of_a_constant_is_the_constant_everywhere(
    pool: Any, scale: Any, size: Any, options: Any
) -> None:
    scales = scale if isinstance(scale, tuple) else (scale, scale)
    old = pool(torch.zeros(1, 2, *size)).shape[2:]
    y = large(pool, scale, size, **options)(
        torch.full((1, 2, *(s * n for s, n in zip(scales, size, strict=True))), 7.0)
    )
    assert y.shape[2:] == tuple(s * n for s, n in zip(scales, old, strict=True))
    assert torch.allclose(y, torch.full_like(y, 7.0))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_it_gives_as_many_times_the_pixels_at_every_size_and_trains(dims: int) -> None:
    for kind, options in itertools.product(("MaxPool", "AvgPool"), ({}, {"ceil_mode": True})):
        pool = getattr(nn, f"{kind}{dims}d")(3, 2, **options)
        model = large(pool, 2, (11,) * dims, **DILATED)
        sizes = (8, 9, 10, 11) if options else (9, 11)  # a floor depends on what is left over
        for n in sizes:
            x = torch.randn(1, 2, *(2 * n,) * dims, requires_grad=True)
            y = model(x)
            assert y.shape[2:] == tuple(2 * m for m in pool(torch.zeros(1, 2, *(n,) * dims)).shape[2:])
            y.sum().backward()
            assert x.grad.isfinite().all()


def test_the_positions_of_maxima_are_those_in_the_input() -> None:
    for options in ({}, {"ceil_mode": True}, {"padding": 1}):
        pool = nn.MaxPool2d(3, 2, return_indices=True, **options)
        x = torch.randn(2, 2, 22, 26)
        values, places = large(pool, 2, (11, 13), **DILATED)(x)
        assert torch.equal(x.flatten(2).gather(2, places.flatten(2)).view_as(values), values)


def test_one_pooling_serves_grids_of_several_sizes() -> None:
    """VGG's habit: one module, called after every block, on 37, 18 and 9 pixels."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv = nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Any) -> Any:
            return self.pool(self.pool(self.pool(self.conv(x))))

    net = Net()
    for size in (37, 36, 39, 44):
        model = rkt.rescale(net, 2, torch.zeros(1, 2, size, size), **DILATED)
        x = torch.randn(1, 2, 2 * size, 2 * size)
        assert not [note for note in model.rekernel_plan.warnings if "several grids" in note]
        with torch.no_grad():
            assert torch.allclose(model(x)[..., ::2, ::2], net(x[..., ::2, ::2]), atol=1e-5)


@pytest.mark.parametrize("options", [DILATED, CENTRED, {"mode": "supersample"}, {}], ids=str)
@pytest.mark.parametrize("pool", [
    nn.AvgPool2d(640, ceil_mode=True), nn.AvgPool2d(4), nn.AvgPool2d(4, 1), nn.MaxPool2d(4),
    nn.AvgPool2d(9, 9, ceil_mode=True), nn.AvgPool2d((4, 4), count_include_pad=False),
    nn.MaxPool2d(640, ceil_mode=True),
], ids=repr)  # fmt: skip
def test_a_window_over_the_whole_grid_reads_the_whole_grid(pool: Any, options: Any) -> None:
    torch.manual_seed(0)
    head = [nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 3)]
    net = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), pool, *head).eval()
    for scale in (2, 3) if "optimal" not in str(options) else (2, 1.5):
        model = rkt.rescale(net, scale, torch.zeros(1, 2, 8, 8), **options)
        assert not model.rekernel_plan.warnings
        x = torch.randn(1, 2, int(8 * scale), int(8 * scale))
        with torch.no_grad():
            features = model[2](model[1](model[0](x)))
            whole = features.mean((2, 3), True) if isinstance(pool, nn.AvgPool2d) else features.amax((2, 3), True)
            assert torch.allclose(model[3](features), whole, atol=1e-6)
            assert model(x).shape == (1, 3)


def test_a_pooling_to_one_pixel_in_the_middle_of_a_network_grows() -> None:
    """On a small example every pooling gives one pixel; what is joined with it, or reads it by 3 taps, decides."""

    class Joins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long, self.pool, self.short = nn.Conv2d(2, 4, 3, 2, 1), nn.AvgPool2d(2, 2), nn.Conv2d(2, 4, 1)

        def forward(self, x: Any) -> Any:
            return self.long(x) + self.short(self.pool(x))

    tail = [nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1)]
    shortcut = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), Joins(), nn.AdaptiveAvgPool2d(1))
    dense = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(2), *tail)
    for net in (shortcut, dense):
        model = rkt.rescale(net, 2, torch.zeros(1, 2, 2, 2), mode="supersample", method="dilate")
        pool = next(m for m in model.modules() if type(m).__name__ == "RescaledAvgPool")
        assert pool(torch.randn(1, 2, 4, 4)).shape[2:] == (2, 2)


def test_a_gate_behind_a_window_over_the_whole_grid_stays_a_gate() -> None:
    class Excites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.gate = nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(8), nn.Conv2d(4, 4, 1)
            self.out = nn.Conv2d(4, 2, 3, padding=1)

        def forward(self, x: Any) -> Any:
            x = self.conv(x)
            return self.out(x * self.gate(self.pool(x)).sigmoid())

    net = Excites()
    model = rkt.rescale(net, 2, torch.zeros(1, 2, 8, 8), method="dilate")
    x = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        assert torch.allclose(model.pool(model.conv(x)), model.conv(x).mean((2, 3), True), atol=1e-6)
        flat = torch.ones(1, 2, 16, 16)
        middle = (..., slice(6, 10), slice(6, 10))
        assert model(x).shape == (1, 2, 16, 16)
        assert torch.allclose(
            model(flat)[middle], net(torch.ones(1, 2, 8, 8))[..., 3:5, 3:5].mean().expand(1, 1, 1, 1), atol=1
        )


def test_a_functional_pooling_over_the_whole_grid_ends_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.read = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            x = self.conv(x)
            return self.read(F.avg_pool2d(x, x.shape[2:]).flatten(1))

    torch.manual_seed(0)
    model = rkt.rescale(Net(), 2, torch.zeros(1, 2, 8, 8), mode="supersample")
    x = torch.randn(1, 2, 16, 16)
    with torch.no_grad():
        assert torch.allclose(model(x), model.read(model.conv(x).mean((2, 3))), atol=1e-6)
    assert not model.rekernel_plan.warnings
