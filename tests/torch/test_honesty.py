"""What cannot be done faithfully is said by name; what cannot be done at all is one line, not a traceback."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils import prune  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402


class Net(nn.Module):
    """A model whose forward is the test's."""

    def __init__(self, forward: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Any) -> Any:
        return self._forward(self, x)


def conv(**more: Any) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, **{"padding": 1, **more})


X = torch.zeros(1, 3, 16, 16)


def notes(model: nn.Module, **options: Any) -> str:
    return "\n".join(rkt.rescale(model, 2, X, **options).rekernel_plan.warnings)


def test_functional_pooling_is_named() -> None:
    net = Net(lambda m, x: F.avg_pool2d(m.c(x), 2), c=conv())
    assert "functional avg-pool" in notes(nn.Sequential(net))
    assert notes(nn.Sequential(net)).startswith("0:")


def test_functional_and_computed_convolutions_are_named() -> None:
    net = Net(lambda m, x: F.conv2d(x, m.c.weight * 2, padding=1), c=conv())
    assert "computed weight" in notes(net)
    net = Net(lambda m, x: F.conv2d(m.c(x), m.c.weight, padding=1), c=conv())
    assert "functional convolution" in notes(net)
    pruned = nn.Sequential(conv())
    prune.l1_unstructured(pruned[0], "weight", 0.3)
    assert "torch.nn.utils.prune.remove" in notes(pruned)
    prune.remove(pruned[0], "weight")
    assert notes(pruned) == ""


def test_growing_attention_is_named_and_cross_attention_is_not() -> None:
    class Attends(nn.Module):
        def forward(self, x: Any) -> Any:
            t = x.flatten(2).transpose(1, 2)
            t = F.scaled_dot_product_attention(t, t, t)
            return t.transpose(1, 2).reshape(x.shape)

    class Reads(nn.Module):
        def forward(self, x: Any) -> Any:
            t = x.flatten(2).transpose(1, 2)
            words = torch.ones(1, 7, 3)
            return F.scaled_dot_product_attention(t, words, words).transpose(1, 2).reshape(x.shape)

    class ByHand(nn.Module):
        def forward(self, x: Any) -> Any:
            t = x.flatten(2).transpose(1, 2)
            return ((t @ t.transpose(1, 2) / 2).softmax(-1) @ t).transpose(1, 2).reshape(x.shape)

    said = notes(
        Net(lambda m, x: m.hand(m.cross(m.own(m.c(x)))), c=conv(), own=Attends(), cross=Reads(), hand=ByHand())
    )
    assert "own: attention looks at 1024 tokens instead of 256" in said
    assert "hand: attention looks at 1024 tokens instead of 256" in said
    assert "cross" not in said


def test_one_weight_at_two_scales_stays_and_is_named() -> None:
    net = Net(lambda m, x: m.c(F.adaptive_avg_pool2d(m.c(x), 8)), c=conv())
    larger = rkt.rescale(net, 2, X)
    assert larger.c.kernel_size == (3, 3)
    assert "c.weight: one weight runs at the scales (2.0, 2.0) and (1.0, 1.0)" in "".join(larger.rekernel_plan.warnings)


def test_flatten_in_an_odd_order_is_refused_by_name() -> None:
    net = Net(lambda m, x: m.read(x.permute(0, 3, 1, 2).flatten(1)), read=nn.Linear(768, 4))
    with pytest.raises(RekernelError, match="read: a linear layer reads pixels of the grid in an order"):
        rkt.rescale(net, 2, X, mode="supersample")


def test_a_flatten_in_an_odd_order_gets_the_image_at_the_trained_size_by_default() -> None:
    net = Net(lambda m, x: m.read(x.permute(0, 3, 1, 2).flatten(1)), read=nn.Linear(768, 4))
    larger, x = rkt.rescale(net, 2, X), torch.randn(1, 3, 32, 32)
    assert torch.allclose(larger(x), net(F.avg_pool2d(x, 2)), atol=1e-5)
    said = "read.weight: reads the pixels in another order; the weights stay, and the image is resampled"
    assert said in "".join(larger.rekernel_plan.warnings)


def test_a_pooling_that_lies_half_a_pixel_off_is_named() -> None:
    beside = "1: its features lie 0.25 pixels beside their place, since pooling cannot shift by half a pixel"
    assert beside in notes(nn.Sequential(conv(), nn.MaxPool2d(3, 2, 1)))
    assert notes(nn.Sequential(conv(), nn.MaxPool2d(3, 2, 1), conv())) == ""  # the convolution makes up for it


@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("kind", ["parametrised", "hooked", "spectral", "spectral-hooked"])
def test_computed_weights_are_baked_and_named(kind: str, form: str) -> None:
    norms = {
        "parametrised": nn.utils.parametrizations.weight_norm, "hooked": nn.utils.weight_norm,
        "spectral": nn.utils.parametrizations.spectral_norm, "spectral-hooked": nn.utils.spectral_norm,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(norms[kind](conv()), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1)).eval()
    model(X)
    names = list(model.state_dict())
    values = {k: v.clone() for k, v in model.state_dict().items()}
    larger = rkt.rescale(model, 2, X, form=form)
    assert "0: its parametrisation" in "".join(larger.rekernel_plan.warnings)
    assert list(model.state_dict()) == names
    assert all(torch.equal(model.state_dict()[k], v) for k, v in values.items())
    plain = nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1)).eval()
    plain.load_state_dict(
        {"0.weight": model[0].weight, "0.bias": model[0].bias, "2.weight": model[2].weight, "2.bias": model[2].bias}
    )
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(larger(x), rkt.rescale(plain, 2, X, form=form)(x), atol=1e-6)
    model(X)


def test_a_baked_file_loads_into_a_parametrised_model(tmp_path: Any) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.utils.parametrizations.weight_norm(conv()))

    larger = rkt.rescale(build(), 2, X)
    rkt.save(larger, tmp_path / "baked.safetensors")
    loaded = rkt.load(build(), tmp_path / "baked.safetensors")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(x), larger(x))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(1, 5, 16, 16), "does not run on the example input"),
        (torch.zeros(3), "no tensor with a spatial axis"),
        ("image", "no tensor with a spatial axis"),
        ({"y": torch.zeros(1, 3, 8, 8)}, "does not run on the example input"),
        (torch.zeros(1, 3, 1, 1), "does not run on the example input"),
    ],
)
def test_a_wrong_example_input_is_named(example: Any, message: str) -> None:
    model = nn.Sequential(conv(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 2))
    before = repr(model)
    with pytest.raises(RekernelError, match=message) as caught:
        rkt.rescale(model, 2, example, inplace=True)
    assert "\n" not in str(caught.value)
    assert repr(model) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "must be a number above 0"),
        ({"scale": (2, 2, 2)}, "3 entries for the 2 spatial axes"),
        ({"scale": "large"}, "must be a number"),
        ({"method": "magic"}, "magic"),
        ({"form": "thin"}, "form='thin'"),
        ({"modes": {"0": "swallow"}}, "swallow"),
        ({"modes": {"nothing": "absorb"}}, "matches no tensor"),
        ({"exclude": ["nothing"]}, "matches no tensor"),
        ({"include": ["0.wieght"]}, r"matches no tensor.* near: 0\.weight"),
        ({"form": "factored", "taps": 5, "method": "optimal"}, "taps='full'"),
        ({"mode": "swallow"}, "mode='swallow' is not one of auto, supersample, absorb, and not a dict of layer names"),
        ({"reading_filter": "magic"}, "magic"),
        ({"methods": {"nothing": {"method": "cubic"}}}, "matches no tensor"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RekernelError, match=message):
        rkt.rescale(nn.Sequential(conv()), **{"scale": 2, "example_input": X, **options})


def test_a_grid_that_does_not_come_out_as_planned_is_named() -> None:
    net = Net(lambda m, x: m.d(F.interpolate(m.c(x), size=(20, 20))), c=conv(), d=conv())
    with pytest.raises(RekernelError, match=r"gives a grid of \(20, 20\) .* the plan said \(40, 40\)"):
        rkt.rescale(net, 2, X)


def test_a_fixed_upsample_module_grows() -> None:
    larger = rkt.rescale(nn.Sequential(conv(), nn.Upsample(size=(20, 20)), conv()), 2, X)
    assert larger(torch.zeros(1, 3, 32, 32)).shape[-2:] == (40, 40)


def test_in_place_failure_leaves_the_model_as_it_was() -> None:
    normed = nn.utils.parametrizations.weight_norm(conv())
    net = Net(lambda m, x: m.read(m.c(x).permute(0, 3, 1, 2).flatten(1)), c=normed, read=nn.Linear(768, 4))
    before, parameters = repr(net), list(net.parameters())
    with pytest.raises(RekernelError):
        rkt.rescale(net, 2, X, inplace=True, mode="supersample")
    assert repr(net) == before
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))


def test_a_convolution_that_pads_in_its_own_forward_is_replaced_and_named() -> None:
    """timm's Conv2dSame: what its code pads becomes the new layer's padding."""

    class Same(nn.Conv2d):
        def forward(self, x: Any) -> Any:
            return super().forward(F.pad(x, (0, 1, 0, 1)))

    class ByHand(nn.Module):
        def __init__(self, conv: nn.Conv2d) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Any) -> Any:
            return self.conv(F.pad(x, (0, 1, 0, 1)))

    same, plain = Same(3, 3, 3, 2), nn.Conv2d(3, 3, 3, 2)
    plain.load_state_dict(same.state_dict())
    x = torch.randn(1, 3, 32, 32)
    for form in ("dense", "factored"):
        larger = rkt.rescale(nn.Sequential(same), 2, X, form=form)
        assert "0: a Same with a forward method of its own" in "".join(larger.rekernel_plan.warnings)
        assert torch.allclose(larger(x), rkt.rescale(ByHand(plain), 2, X, form=form)(x), atol=1e-6)


def test_code_that_computes_its_padding_finds_the_old_stride_in_the_layer() -> None:
    """As TensorFlow's 'SAME' in MobileNetV2 does; the stride of the new layer is 4."""
    net = Net(lambda m, x: m.c(F.pad(x, (0, 3 - m.c.stride[1], 0, 3 - m.c.stride[0]))), c=conv(stride=2, padding=0))
    options = {"mode": "absorb", "taps": "full"}
    dense = rkt.rescale(net, 2, X, method="optimal-filter", **options)
    factored = rkt.rescale(net, 2, X, method="optimal", form="factored", **options)
    assert dense.c.stride == factored.c.stride == (2, 2)
    x = torch.randn(1, 3, 32, 32)
    assert dense(x).shape == (1, 3, 8, 8)
    assert torch.allclose(dense(x), factored(x), atol=1e-5)


def test_rescaling_twice_is_refused() -> None:
    larger = rkt.rescale(nn.Sequential(conv()), 2, X)
    with pytest.raises(RekernelError, match="was rescaled already"):
        rkt.rescale(larger, 2, torch.zeros(1, 3, 32, 32))


def test_a_pooling_that_cannot_take_the_scale_is_named() -> None:
    with pytest.raises(RekernelError, match="1: pooling can only be rescaled by whole numbers"):
        rkt.rescale(nn.Sequential(conv(), nn.MaxPool2d(2)), 1.5, X)
