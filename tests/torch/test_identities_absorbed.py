"""A rescaled network is the trained network on a smaller picture: exactly, for many networks, borders included.

What the smaller picture is, is written here by hand: means over blocks of pixels, a 3-to-2 matrix at 1.5x, and Keys'
cubic coefficients where an image has fewer pixels than in training. The operators of rekernel take no part in it.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel.torch as rkt  # noqa: E402

KEYS = {1: (-0.0703125, 0.8671875, 0.2265625, -0.0234375), 0: (-0.0234375, 0.2265625, 0.8671875, -0.0703125)}
"""Keys' kernel with a = -1/2 at 1.25, .25, .75 and 1.75 pixels, for the right and the left half of a pixel."""


def along(x: Any, axis: int, scale: float, *, patch: bool = False) -> Any:
    """The picture with `1 / scale` times the pixels along an axis."""
    n, x = x.shape[axis], x.movedim(axis, -1)
    if scale == round(scale):
        small = x.reshape(*x.shape[:-1], n // round(scale), round(scale)).mean(-1)
    elif scale == 1.5:  # each two new pixels are three old ones
        small = (x.reshape(*x.shape[:-1], n // 3, 3) @ x.new_tensor([[2, 0], [1, 1], [0, 2]]) / 3).flatten(-2)
    elif patch:  # a part of a pixel is the pixel
        small = x.repeat_interleave(2, -1)
    else:
        at = torch.arange(n)[:, None]
        halves = [
            (x[..., (at + torch.arange(4) - 2 + right).clamp(0, n - 1)] * x.new_tensor(KEYS[right])).sum(-1)
            for right in (0, 1)
        ]
        small = torch.stack(halves, -1).flatten(-2)
    return small.movedim(-1, axis)


def reduced(x: Any, scales: Sequence[float], *, patch: bool = False) -> Any:
    for axis, scale in enumerate(scales, x.ndim - len(scales)):
        x = along(x, axis, scale, patch=patch)
    return x


class Net(nn.Module):
    """A model whose forward is the test's."""

    def __init__(self, forward: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.call = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *x: Any) -> Any:
        return self.call(self, *x)


def head(dims: int = 2) -> nn.Module:
    """Reads every pixel of its own, borders too."""
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return nn.Sequential(nn.ReLU(), conv(4, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))


def first(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(layers), head())


def residual() -> nn.Module:
    """Batch norms, a shortcut with a stride, a squeeze-excite block, a group norm and global pooling."""

    def forward(m: Any, x: Any) -> Any:
        x = m.stem(x)
        y = m.long(x) + m.short(x)
        return m.read(y * m.excite(y.mean((2, 3)))[:, :, None, None])

    return Net(
        forward, stem=nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        long=nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1)),
        short=nn.Conv2d(4, 8, 1, 2), excite=nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8), nn.Sigmoid()),
        read=nn.Sequential(nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )  # fmt: skip


class ViT(nn.Module):
    """Patches, a class token, positions, attention, and a head on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.read = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 5)
        self.cls, self.pos_embed = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 10, 8))

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.read(self.norm(x + F.scaled_dot_product_attention(x, x, x))[:, 0])


def tf_same(**more: Any) -> nn.Module:
    """TensorFlow's 'SAME': the code computes its padding from the layer and the size of the image."""

    def forward(m: Any, x: Any) -> Any:
        sides = []
        for n, t, k, d in zip(x.shape[:1:-1], m.conv.stride, m.conv.kernel_size, m.conv.dilation, strict=True):
            pad = max((-(-n // t) - 1) * t + d * (k - 1) + 1 - n, 0)
            sides += [pad // 2, pad - pad // 2]
        return m.head(m.conv(F.pad(x, sides)))

    return Net(forward, conv=nn.Conv2d(3, 4, 3, 2, **more), head=head())


def normed() -> nn.Module:
    """ImageNet's constants, taken off in the model; a batch norm of the image; then a convolution."""
    net = Net(
        lambda m, x: m.head(m.conv(m.norm((x[:, [2, 1, 0]] * 2 - 1 - m.mean) / m.std))),
        norm=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 4, 3, 2, 1), head=head(),
    )  # fmt: skip
    net.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
    net.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
    return net


def conv(stride: int = 2, padding: Any = 1, k: int = 3, **more: Any) -> nn.Module:
    return nn.Conv2d(3, 4, k, stride, padding, **more)


class Case(NamedTuple):
    """One network.

    absorbs : whether a layer absorbs a whole scale; otherwise the image is resampled in front of the network
    step : the stride of that layer; the scales by which it grows to a whole number are absorbed, too
    patch : whether that layer may shrink
    except_at : scales that it does not absorb
    """

    build: Callable[[], nn.Module]
    absorbs: bool = True
    step: int = 2
    size: tuple[int, ...] = (12, 12)
    channels: int = 3
    patch: bool = False
    except_at: tuple[Any, ...] = ()


def with_layers(forward: Callable[[Any, Any], Any], **layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(Net(forward, **copy.deepcopy(layers)), head())


def behind(change: Callable[[Any], Any]) -> Callable[[], nn.Module]:
    """A convolution that reads a function of the image."""
    return with_layers(lambda m, x: m.conv(change(x)), conv=conv())


def pooled(pool: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(conv(1), nn.ReLU(), pool, head())


ZOO = {
    **{f"zeros, {k=}, {t=}, {p=}": Case(first(conv(t, p, k)), step=t)
       for k, t, p in [(3, 1, 1), (3, 2, 1), (3, 2, 0), (4, 2, 1), (7, 2, 3), (5, 3, 2), (3, 1, 2), (3, 2, (2, 0))]},
    "same": Case(first(conv(1, "same")), step=1),
    "same, even": Case(first(conv(1, "same", 4)), step=1),
    "circular": Case(first(conv(padding_mode="circular"))),
    "circular, 7 taps": Case(first(conv(padding=3, k=7, padding_mode="circular"))),
    "reflect": Case(first(conv(padding_mode="reflect")), absorbs=False),
    "replicate": Case(first(conv(padding_mode="replicate")), absorbs=False),
    "dilated": Case(first(conv(padding=4, dilation=4)), step=2),
    "dilated, circular": Case(first(conv(padding=2, dilation=2, padding_mode="circular"))),
    "grouped": Case(lambda: nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1, groups=2), head()), channels=4),
    "depthwise": Case(lambda: nn.Sequential(nn.Conv2d(4, 4, 5, 1, 2, groups=4), head()), channels=4, step=1),
    "zeros by hand": Case(lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 1)), conv(padding=0), head())),
    "circular by hand": Case(lambda: nn.Sequential(nn.CircularPad2d(1), conv(padding=0), head())),
    "reflect by hand": Case(lambda: nn.Sequential(nn.ReflectionPad2d(1), conv(padding=0), head()), absorbs=False),
    "ones by hand": Case(lambda: nn.Sequential(nn.ConstantPad2d(1, 1.0), conv(padding=0), head()), absorbs=False),
    "TF SAME": Case(tf_same),
    "TF SAME, dilated": Case(lambda: tf_same(dilation=2)),
    "TF SAME, odd size": Case(tf_same, size=(13, 11), except_at=(2, "anisotropic")),
    "TF SAME, odd at 1.5": Case(tf_same, size=(14, 10), except_at=(1.5,)),
    "max pooling": Case(pooled(nn.MaxPool2d(3, 2, 1)), step=1),
    "average pooling": Case(pooled(nn.AvgPool2d(2)), step=1),
    "residual": Case(residual),
    "ViT": Case(ViT, step=4, patch=True),
    "MLP": Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 5)), step=0, patch=True),
    "1-D": Case(lambda: nn.Sequential(nn.Conv1d(2, 4, 5, 2, 2), head(1)), size=(24,), channels=2),
    "3-D": Case(lambda: nn.Sequential(nn.Conv3d(2, 4, 3, 2, 1), head(3)), size=(6, 6, 12), channels=2),
    "input norm": Case(normed),
    "two readers": Case(with_layers(lambda m, x: m.a(x) + m.b(x), a=conv(), b=conv(2, 2, 5))),
    "image concatenated later": Case(
        with_layers(lambda m, x: m.b(torch.cat([m.a(x), x], 1)), a=conv(1), b=nn.Conv2d(7, 4, 3, 2, 1)), absorbs=False
    ),
    "nonlinear function": Case(behind(lambda x: x.abs() ** 0.5), absorbs=False),
    "norm over the image": Case(behind(lambda x: (x - x.mean((2, 3), True)) / x.std((2, 3), keepdim=True)),
                                absorbs=False),
    "pooling reads the image": Case(lambda: nn.Sequential(nn.MaxPool2d(2), conv(1), head()), absorbs=False),
    "a part of the image": Case(behind(lambda x: x[..., 2:, :-2]), absorbs=False),
    "transposed image": Case(behind(lambda x: x.transpose(2, 3)), absorbs=False, size=(12, 6)),
    "mirrored image": Case(behind(lambda x: x.flip(3)), absorbs=False),
}  # fmt: skip


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    case = ZOO[name]
    model = case.build().eval()
    model(torch.zeros(1, case.channels, *case.size))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model


def close(a: Any, b: Any) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1))


SCALES: tuple[Any, ...] = (2, 3, 1.5, 0.5, "anisotropic")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ZOO)
def test_absorbing_is_exact(name: str, scale: Any, tmp_path: Any) -> None:
    """N'(x) = N(D x), and the same out of a file."""
    case, model = ZOO[name], built(name)
    dims = len(case.size)
    if any(not (n * 1.5).is_integer() for n in case.size) and scale in (1.5, 0.5):
        pytest.skip("no whole number of pixels")
    scales = (1.0, 2.0, 3.0)[-dims:] if scale == "anisotropic" else (float(scale),) * dims
    example = torch.zeros(1, case.channels, *case.size)
    # At a scale that is not whole the default is another filter; 'area' is exact at every scale.
    larger = rkt.rescale(model, scales, example, mode="absorb", reading_filter="area")
    x = torch.randn(2, case.channels, *(round(n * s) for n, s in zip(case.size, scales, strict=True)))
    absorbs = (
        case.absorbs
        and scale not in case.except_at
        and all((case.step * s).is_integer() and (s >= 1 or case.patch) for s in scales)
    )
    kinds = [module.kind for module in larger.rekernel_plan.modules]
    assert kinds == ([] if absorbs else ["resample"])
    assert bool(larger.rekernel_plan.changed) is absorbs
    with torch.no_grad():
        assert close(larger(x), model(reduced(x, scales, patch=absorbs)))
        rkt.save(larger, tmp_path / "out.safetensors")
        assert torch.equal(rkt.load(built(name), tmp_path / "out.safetensors")(x), larger(x))


def test_the_default_is_area_at_whole_scales_and_keeps_more_at_others() -> None:
    model = built("zeros, k=3, t=2, p=1")
    case = ZOO["zeros, k=3, t=2, p=1"]
    example = torch.zeros(1, case.channels, *case.size)
    for scale, method in ((2, "area"), (1.5, "lanczos3")):
        plan = rkt.rescale(model, scale, example).rekernel_plan
        assert {o.method for change in plan.changed for o in change.operators} == {method}
    [resample] = rkt.rescale(model, 0.5, example).rekernel_plan.modules
    assert (resample.kind, resample.method) == ("resample", "lanczos3")


def strided(pool: nn.Module) -> nn.Module:
    """Strides of 2 and 2 or more, a dilated layer, an average and a maximum pooling; float64."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1, groups=2), nn.ReLU(),
        pool, nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.Tanh(), nn.Conv2d(4, 3, 1),
    ).double().eval()  # fmt: skip


POOLS = {
    "average": nn.AvgPool2d(2), "average, 3 taps": nn.AvgPool2d(3, 2, 1), "maximum": nn.MaxPool2d(3, 2, 1),
    "maximum of 2": nn.MaxPool2d(2),
}  # fmt: skip
STEP = 4  # the product of the strides


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("pool", POOLS)
def test_a_dilated_network_is_the_trained_one_on_shifted_pictures(pool: str, scale: int) -> None:
    """N'(x)[s m + q] = N(D shift x)[m], where the picture moves by q times the strides, in pixels of the large one. At
    phase 0 this holds at the border, too, where zeros surround both."""
    model, side = strided(POOLS[pool]), 64
    larger = rkt.rescale(
        model, scale, torch.zeros(1, 2, side, side).double(), mode="supersample", method="dilate", reading_filter="area"
    )
    x = torch.randn(1, 2, side * scale, side * scale, dtype=torch.float64)
    with torch.no_grad():
        y = larger(x)
        assert y.shape[-1] == scale * side // STEP
        for q, r in itertools.product(range(scale), repeat=2):
            shifted = F.pad(x, (0, r * STEP, 0, q * STEP))[..., q * STEP :, r * STEP :]
            wanted = model(reduced(shifted, (scale, scale)))
            inner = slice(None) if q == r == 0 else slice(5, -5)
            error = (y[..., q::scale, r::scale] - wanted)[..., inner, inner].abs().max()
            assert error < 1e-12 * wanted.abs().max(), (q, r)
