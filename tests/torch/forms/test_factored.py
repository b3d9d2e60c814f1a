"""The factored layers: equal to the dense ones to rounding, with no pixel that nobody reads, and ordinary modules."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.torch.layers.factored import FactoredConv, FactoredConvTranspose  # noqa: E402

from ..conftest import GROWS  # noqa: E402

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSES = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def invariant(method: str) -> str:
    """'optimal' in the shift-invariant design that a blur can be."""
    return "optimal-filter" if method == "optimal" else method


def both_forms(layer: nn.Module, dims: int, method: str, scale: int, size: int, mode: str) -> tuple[Any, Any, Any]:
    """Dense and factored, and a noise input."""
    model = nn.Sequential(layer).double()
    example = torch.zeros(1, 4, *[size] * dims, dtype=torch.float64)
    dense = rkt.rescale(model, scale, example, method=invariant(method), taps="full", modes={"*": mode})
    factored = rkt.rescale(model, scale, example, method=method, form="factored", modes={"*": mode})
    return dense, factored, torch.randn(2, 4, *[size * scale] * dims, dtype=torch.float64)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("mode", ["supersample", "absorb"])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_blur_at_the_step_of_its_convolution_changes_nothing(dims: int, mode: str, padding_mode: str) -> None:
    torch.manual_seed(0)
    kernels = itertools.product((1, 2, 3, 4), (1, 2, 4), (1, 2), (2, 3), ("cubic", "optimal"))
    for k, stride, dilation, scale, method in kernels:
        if (k == 1 and (stride == 1 or dilation == 2)) or (k == stride and mode == "absorb"):
            continue  # untouched, or a patch: dense absorbs it on its grid
        if dims == 2 and (dilation == 2 or scale == 3):
            continue
        padding = min(1, k // 2) * dilation
        layer = CONVS[dims - 1](4, 2, k, stride, padding, dilation=dilation, padding_mode=padding_mode)
        dense, factored, x = both_forms(layer, dims, method, scale, 12, mode)
        with torch.no_grad():
            a, b = dense(x), factored(x)
        assert isinstance(factored[0], FactoredConv)
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-10, (k, stride, dilation, scale, method)


@pytest.mark.parametrize(("k", "stride", "dilation"), [(3, 1, 6), (3, 2, 5), (3, 3, 6), (11, 1, 1), (5, 2, 3)])
def test_padding_beyond_the_blurs_reach_is_left_to_the_convolution(k: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    padding = dilation * (k // 2)
    layer = nn.Conv2d(4, 2, k, stride, padding, dilation=dilation)
    dense, factored, x = both_forms(layer, 2, "optimal", 2, 12, "supersample")
    with torch.no_grad():
        assert (dense(x) - factored(x)).abs().max() < 1e-10
    length, out = len(factored[0].filter_0), factored(x).shape[-1]
    # Along an axis no blurred pixel is made whose window lies off the image.
    made = (24 + 2 * (length - 1) + 1) // factored[0].step[0]
    assert (
        multiplications(factored, x) <= 2 * 4 * length * (made * (24 + 2 * length) + made**2) + 2 * 8 * k * k * out**2
    )


def test_an_axis_that_keeps_its_scale_is_neither_blurred_nor_strided() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(2, 3, (3, 3, 1), (2, 2, 2), (1, 1, 0))).double()
    example = torch.zeros(1, 2, 6, 8, 8, dtype=torch.float64)
    dense = rkt.rescale(model, (1, 2, 3), example, method="optimal-filter", taps="full")
    factored = rkt.rescale(model, (1, 2, 3), example, form="factored", **GROWS)
    x = torch.randn(1, 2, 6, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        assert (dense(x) - factored(x)).abs().max() < 1e-10
    assert factored[0].blurred == (False, True, True)


def multiplications(model: nn.Module, x: Any) -> int:
    """What torch counts."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("mode", "out", "wide"), [("supersample", 16, 32 + 13), ("absorb", 8, 32)])
def test_what_the_convolution_skips_is_not_smoothed(mode: str, out: int, wide: int) -> None:
    """Stride 2 at 2x: the blur makes every second row, then every second pixel of it; the convolution is the old one.

    Equal sides are padded by the blur of their own axis, so that the other one runs on the image alone.
    """
    model = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, bias=False))
    larger = rkt.rescale(model, 2, torch.zeros(1, 8, 16, 16), form="factored", mode=mode, method="optimal")
    x = torch.zeros(1, 8, 32, 32)
    assert larger(x).shape[-1] == out
    assert len(larger[0].filter_0) == 10
    made = 18  # of 36
    assert multiplications(larger, x) == 8 * 10 * (made * wide + made * made) + 8 * 8 * 9 * out * out


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_forms_agree_to_rounding_borders_included(dims: int) -> None:
    torch.manual_seed(0)
    done = 0
    options = itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1, 2), (0, 1), (1, 2), (1, 2), (2, 3))
    for k, stride, padding, extra, dilation, groups, scale in options:
        if (
            extra >= max(stride, dilation)
            or (k == stride == 1)
            or (dims > 1 and scale + groups + dilation > 4)
            or (groups == 2 and stride != 2)
            or (scale == 3 and (padding != 1 or dilation == 2))
        ):
            continue
        if (dims == 3 and (k not in (2, 3) or stride != 2 or padding != 1)) or 5 * stride - 2 * padding + dilation * (
            k - 1
        ) + extra < 0:
            continue
        model = nn.Sequential(TRANSPOSES[dims - 1](4, 6, k, stride, padding, extra, groups, dilation=dilation)).double()
        example = torch.zeros(1, 4, *[6] * dims, dtype=torch.float64)
        x = torch.randn(2, 4, *[6 * scale] * dims, dtype=torch.float64)
        for method in ("optimal", "cubic"):
            dense = rkt.rescale(model, scale, example, method=invariant(method), taps="full")
            factored = rkt.rescale(model, scale, example, method=method, form="factored")
            with torch.no_grad():
                a, b = dense(x), factored(x)
            assert isinstance(factored[0], FactoredConvTranspose)
            assert a.shape == b.shape
            assert (a - b).abs().max() < 1e-10, (k, stride, padding, extra, dilation, groups, scale, method)
            done += 1
    assert done > (3 if dims == 3 else 40)


def generator() -> tuple[nn.Module, nn.Module]:
    """A small image generator, and its factored form."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose2d(4, 8, 4, 2, 1, bias=False), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3, 2, 1, 1), nn.Tanh()
    )
    return model, rkt.rescale(model, 2, torch.zeros(1, 4, 8, 8), form="factored", **GROWS)


def test_a_transposed_layer_keeps_its_names_and_weights_and_costs_no_more() -> None:
    model, larger = generator()
    assert list(larger.state_dict()) == list(model.state_dict())
    for name, weight in larger.named_parameters():
        assert torch.equal(weight, model.get_parameter(name))
    x = torch.zeros(1, 4, 16, 16)
    dense = rkt.rescale(model, 2, torch.zeros(1, 4, 8, 8), method="optimal-filter")
    assert multiplications(larger, x) < multiplications(dense, x) / 2


def test_a_transposed_layer_is_an_ordinary_module() -> None:
    larger = generator()[1]
    x = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        expected = larger(x)
        assert torch.equal(copy.deepcopy(larger)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(larger))(x), expected)
        assert torch.allclose(torch.compile(larger, backend="aot_eager", fullgraph=True)(x), expected, atol=1e-6)
        assert torch.allclose(torch.export.export(larger, (x,)).module()(x), expected, atol=1e-6)
        assert larger.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_gradients_reach_a_transposed_weight() -> None:
    larger = generator()[1].double()
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(larger, (x,))
    larger(x).sum().backward()
    assert larger[0].weight.grad.abs().sum() > 0


def test_a_transposed_layer_survives_a_file(tmp_path: Any) -> None:
    model, larger = generator()
    rkt.save(larger, tmp_path / "g.safetensors")
    loaded = rkt.load(copy.deepcopy(model), tmp_path / "g.safetensors")
    assert isinstance(loaded[0], FactoredConvTranspose)
    x = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), larger(x))


def test_a_factored_layer_says_what_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1))
    larger = rkt.rescale(model, 2, torch.zeros(1, 4, 8, 8), form="factored", **GROWS)
    length = rk.kernel_taps(3, 2, "optimal-filter") - 4 + 1  # even: stride 2 sits half a pixel off
    assert f"stride=(2, 2), padding=((7, 6), (7, 6)), dilation=(2, 2), blur={length}x{length}" in repr(larger)
