"""Claims that hold exactly, or to a stated figure, on linear networks."""

from __future__ import annotations

import itertools
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402


def periodic(n: int, scale: int, dims: int, cycles: int = 3) -> Any:
    """Band-limited and periodic: the same waves sampled at pixel centres, `scale` times denser."""
    generator = torch.Generator().manual_seed(0)
    m = n * scale
    at = ((torch.arange(m) + 0.5) / m).double() * 6.283185307179586
    out = torch.zeros(1, 2, *[m] * dims, dtype=torch.float64)
    for _ in range(6):
        wave = torch.rand(1, 2, *[1] * dims, generator=generator).double() * 6.28
        for axis in range(dims):
            shape = [1] * (dims + 2)
            shape[axis + 2] = m
            wave = wave + torch.randint(0, cycles + 1, (1,), generator=generator).item() * at.reshape(shape)
        out += torch.cos(wave)
    return out


def network(dims: int) -> nn.Module:
    """Convolutions of stride 1, 2 and 2 (odd, odd and even kernels), dilated ones, and an average pooling; a volume
    goes without the even and the dilated one."""
    torch.manual_seed(0)
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pool: Any = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1]
    around = {"padding_mode": "circular"}
    start = [conv(2, 4, 3, padding=1, **around), conv(4, 4, 3, 2, padding=1, groups=2, **around)]
    rest = [conv(4, 4, 4, 2, padding=1, **around), conv(4, 4, 3, padding=2, dilation=2, **around)]
    return nn.Sequential(*start, *(rest if dims < 3 else []), pool(2)).double()


HALF_WAY = [-5 / 2048, 49 / 2048, -245 / 2048, 1225 / 2048, 1225 / 2048, -245 / 2048, 49 / 2048, -5 / 2048]
SIZES = {1: 192, 2: 192, 3: 48}  # down to 24 pixels, a volume to 12
CYCLES = {1: 3, 2: 3, 3: 1}


def error(model: nn.Module, rescaled: nn.Module, dims: int, scale: int) -> float:
    """Largest error at any interior pixel, relative to the largest value, of the finer output at the coarser pixels.

    At 3x these are every third pixel; at 2x they lie half-way between two, where eight neighbours tell the value of a
    band-limited signal to 1e-5. Three border pixels are left out: the pooling's new window reaches over the edge.
    """
    with torch.no_grad():
        small, large = (m(periodic(SIZES[dims], s, dims, CYCLES[dims])) for m, s in ((model, 1), (rescaled, scale)))
    for axis in range(2, 2 + dims):
        if scale == 2:
            large = sum(w * large.roll(3 - i, axis) for i, w in enumerate(HALF_WAY))
        at = torch.arange(small.shape[axis]) * scale + (scale - 1) // 2
        large = large.index_select(axis, at)
    inner = (..., *[slice(4, -4)] * dims)
    return float((large - small)[inner].abs().max() / small[inner].abs().max())


def rescaled(model: nn.Module, dims: int, scale: int, **options: Any) -> nn.Module:
    return rkt.rescale(model, scale, torch.zeros(1, 2, *[SIZES[dims]] * dims, dtype=torch.float64), **options)


@pytest.mark.parametrize(("dims", "scale"), [(1, 2), (1, 3), (2, 2), (2, 3), (3, 2)])
def test_linear_network_agrees_at_every_pixel_strides_and_phases_included(dims: int, scale: int) -> None:
    model = network(dims)
    factored = error(model, rescaled(model, dims, scale, method="cubic", form="factored"), dims, scale)
    # Measured: 1-D 2x .0010, 3x .0011; 2-D 2x .0043, 3x .0051; 3-D 2x .0038.
    assert factored < 0.01
    if dims == 3:
        return  # 11x11x11 dense taps would take 19 GB here; that the forms agree in 3-D is the next test's
    assert abs(factored - error(model, rescaled(model, dims, scale, method="cubic"), dims, scale)) < 1e-9
    if scale == 3:
        return  # where the phase of these layers is zero
    # Without a number of taps, one more is taken where the phase would be 0.5, and the phase becomes zero.
    exact = rescaled(model, dims, scale, method="cubic", taps=15)
    assert abs(factored - error(model, exact, dims, scale)) < 1e-9
    uncorrected = rkt.apply_plan(deepcopy(model), without_phases(exact.rekernel_plan))
    # Measured without the phase: 1-D .0191, 2-D .0759.
    assert error(model, uncorrected, dims, scale) > 10 * factored


def without_phases(plan: Any) -> Any:
    """The plan with a phase of zero on every axis."""
    changes = [replace(c, operators=tuple(replace(o, phase=0.0) for o in c.operators)) for c in plan.changes]
    return replace(plan, changes=tuple(changes))


CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@pytest.mark.parametrize("scale", [2, 3])
def test_a_dilated_network_of_stride_one_is_the_original_on_every_interleaved_grid(scale: int) -> None:
    """Whatever the depth and the nonlinearity, zero padding included: no layer adds an error, and no grid ever hears of
    another. Where dilation wins, this is why; that noise is never averaged, too. An interpolated one does mix them."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 6, 5, padding=2, groups=6), nn.ReLU(),
        nn.Conv2d(6, 2, 1), nn.Conv2d(2, 2, 3, padding=2, dilation=2),
    ).double()  # fmt: skip
    example, x = torch.zeros(1, 2, 12, 10).double(), torch.randn(1, 2, 12 * scale, 10 * scale).double()
    apart = {}
    for method in ("dilate", "optimal"):
        large = rkt.rescale(model, scale, example, method=method)
        with torch.no_grad():
            y = large(x)
            apart[method] = max(
                float((y[..., i::scale, j::scale] - model(x[..., i::scale, j::scale])).abs().max())
                for i, j in itertools.product(range(scale), repeat=2)
            )
    assert apart["dilate"] < 1e-12
    assert apart["optimal"] > 0.05


def both_forms(layer: nn.Module, dims: int, method: str, *, scale: int = 2, size: int = 12) -> tuple[Any, Any, Any]:
    """Dense and factored, and an input; 'optimal-filter' is the shift-invariant design that 'optimal' factors into."""
    model = nn.Sequential(layer).double()
    example = torch.zeros(1, 4, *[size] * dims, dtype=torch.float64)
    dense = rkt.rescale(model, scale, example, method="optimal-filter" if method == "optimal" else method)
    factored = rkt.rescale(model, scale, example, method=method, form="factored")
    x = torch.randn(2, 4, *[size * scale] * dims, dtype=torch.float64)
    return dense, factored, x


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("method", ["cubic", "optimal", "linear", "dilate"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_forms_agree_to_rounding_borders_included(dims: int, method: str, mode: str) -> None:
    torch.manual_seed(0)
    for stride, groups, dilation in itertools.product((1, 2), (1, 4), (1, 2)):
        if method == "dilate" and stride == 2:
            continue  # half a pixel off: dilation cannot say it, see the next test
        layer = CONVS[dims - 1](4, 4, 3, stride, padding=dilation, groups=groups, dilation=dilation, padding_mode=mode)
        dense, factored, x = both_forms(layer, dims, method, size={1: 12, 2: 10, 3: 6}[dims])
        with torch.no_grad():
            a, b = dense(x), factored(x)
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-10, (stride, groups, dilation)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    ("k", "stride", "padding"), [(3, 2, 1), (4, 2, 1), (2, 2, 0), (7, 2, 3), (5, 1, "same"), (4, 1, "same")]
)
def test_forms_agree_for_every_kernel(k: int, stride: int, padding: Any, scale: int) -> None:
    torch.manual_seed(0)
    for method in ("cubic", "optimal", "dilate"):
        dense, factored, x = both_forms(nn.Conv2d(4, 4, k, stride, padding), 2, method, scale=scale)
        with torch.no_grad():
            assert (dense(x) - factored(x)).abs().max() < 1e-10, method


class ByHand(nn.Module):
    """Pads unevenly before its convolution, as diffusers' VAE does."""

    def __init__(self, mode: str, pad: tuple[int, ...] = (0, 1, 0, 1)) -> None:
        super().__init__()
        self.conv, self.mode, self.pad = nn.Conv2d(4, 4, 3, 2), mode, pad

    def forward(self, x: Any) -> Any:
        return self.conv(nn.functional.pad(x, self.pad, mode=self.mode))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("pad", [(0, 1, 0, 1), (1, 1, 0, 1)])
def test_padding_by_hand(mode: str, pad: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = ByHand(mode, pad).double()
    dense, factored, x = both_forms(model, 2, "cubic")
    with torch.no_grad():
        a, b = dense(x), factored(x)
    assert a.shape[-2:] == (12, 12)
    assert (a - b).abs().max() < 1e-10
    assert model.conv.kernel_size == (3, 3)


def test_padding_by_hand_around_the_image_is_as_good_as_the_layers_own() -> None:
    """Circular padding by hand is done again at the new size: nothing of the reflection is reflected."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, 1, padding_mode="circular", padding=1).double()
    bare = nn.Conv2d(2, 2, 3).double()
    bare.load_state_dict(conv.state_dict())
    hand = nn.Sequential(nn.CircularPad2d(1), bare)
    for form in ("dense", "factored"):
        a, b = (rescaled(m, 2, 2, method="cubic", form=form) for m in (nn.Sequential(conv), hand))
        x = periodic(192, 2, 2)
        with torch.no_grad():
            assert torch.allclose(a(x), b(x), atol=1e-12)


def test_transposed_convolution_is_the_adjoints_equal() -> None:
    """A 2x upsampling by transposed convolution agrees on a band-limited periodic input, away from its zero border."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(2, 2, 4, 2, 1)).double()
    large = rescaled(model, 2, 2, method="cubic")
    with torch.no_grad():
        y, fine = model(periodic(192, 1, 2)), large(periodic(192, 2, 2))
    assert fine.shape[-2:] == (768, 768)
    # Area averages of the fine output see the same waves, up to their droop (under 1 % at 3 cycles in 192 pixels).
    coarse = nn.functional.avg_pool2d(fine, 2)
    inner = (..., slice(8, -8), slice(8, -8))
    low = nn.functional.avg_pool2d(y, 2)[inner]
    # What is left is the checkerboard that a random kernel of stride 2 makes, twice as fine after rescaling.
    assert (nn.functional.avg_pool2d(coarse, 2)[inner] - low).abs().max() / low.abs().max() < 0.06
