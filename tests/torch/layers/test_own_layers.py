"""A layer with a forward method of its own is rescaled to what the same network of plain layers becomes, or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils import parametrizations  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402

from . import own_classes as own  # noqa: E402

X = torch.zeros(1, 3, 16, 16)
WAYS: list[dict[str, Any]] = [
    {}, {"mode": "supersample"}, {"method": "dilate"}, {"method": "cubic", "form": "dense"}, {"mode": "absorb"},
]  # fmt: skip
PADS = {own.Padded: 0, own.Same: 0, own.Cropped: 2, own.Reflected: 0}
KEPT = [own.Normed, own.Scaled, own.Active, own.Preactivated]
REPLACED = [own.Padded, own.Same, own.Cropped, own.Reflected, own.Standardised, own.Equalised, own.Masked]


def made(kind: Any, stride: int = 1, channels: int = 4) -> Any:
    torch.manual_seed(0)
    return kind(channels, 8, 3, stride, PADS.get(kind, 1))


def network(layer: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return own.shaken(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer, nn.Conv2d(8, 4, 3, padding=1)))


def image(*shape: int) -> Any:
    return F.interpolate(torch.randn(shape[0], shape[1], 6, 6), size=shape[2:], mode="bicubic")


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [*KEPT, *REPLACED])
def test_it_becomes_what_the_network_of_plain_layers_becomes(kind: Any, stride: int, options: dict[str, Any]) -> None:
    net = network(made(kind, stride))
    plain = nn.Sequential(net[0], net[1].plain(), net[2]).eval()
    larger, right = rkt.rescale(net, 2, X, **options), rkt.rescale(plain, 2, X, **options, check=False)
    x = image(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(larger(x), right(x), atol=1e-5)
    grows = options.get("mode") != "absorb"
    assert isinstance(larger[1], kind) == (kind in KEPT or not grows)
    if kind in KEPT:
        assert set(larger.state_dict()) == set(net.state_dict())
    note = f"1: a {kind.__name__} with a forward method of its own"
    assert (note in " ".join(larger.rekernel_plan.warnings)) == grows


@pytest.mark.parametrize(
    "kind", [own.Normed, own.Scaled, own.Active, own.Standardised, own.Masked, own.Padded, own.Same]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_one_that_reads_the_image_absorbs_the_scale_exactly(kind: Any, stride: int) -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    net = own.shaken(nn.Sequential(made(kind, stride, channels=3), nn.ReLU(), head))
    larger = rkt.rescale(net, 2, X)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(larger(x), net(F.avg_pool2d(x, 2)), atol=1e-5)
    assert larger[0].kernel_size[0] >= 6


@pytest.mark.parametrize("kind", [own.Twice, own.HardCoded, own.Stateful])
def test_what_does_something_else_is_refused_by_name_with_the_way_out(kind: Any) -> None:
    net = network(made(kind))
    before = repr(net)
    with pytest.raises(RekernelError, match=rf"^1\.weight: this {kind.__name__} cannot be rescaled") as caught:
        rkt.rescale(net, 2, X, inplace=True)
    assert "exclude=['1.weight']" in str(caught.value)
    assert str(caught.value).count("\n") < 10
    assert repr(net) == before
    assert rkt.rescale(net, 2, X, exclude=["1.weight"])(torch.zeros(1, 3, 32, 32)).shape[1] == 4


def test_an_unclear_reader_gets_the_image_at_the_trained_size() -> None:
    net = nn.Sequential(made(own.Twice, channels=3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    larger, x = rkt.rescale(net, 2, X), torch.randn(1, 3, 32, 32)
    assert torch.allclose(larger(x), net(F.avg_pool2d(x, 2)), atol=1e-5)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_computed_weight_is_baked_into_a_layer_of_the_same_class(norm: Any) -> None:
    net = network(norm(made(own.Normed)))
    net(X)  # an older hook computes the weight when the layer runs
    plain = nn.Sequential(net[0], nn.Sequential(own.copied(net[1]), net[1].norm, nn.ReLU()), net[2]).eval()
    x = image(1, 3, 32, 32)
    larger = rkt.rescale(net, 2, X)
    with torch.no_grad():
        assert torch.allclose(larger(x), rkt.rescale(plain, 2, X)(x), atol=1e-5)
    assert type(larger[1]) is own.Normed
    assert {name for name in larger.state_dict() if name.startswith("1.")} == {
        f"1.{name}" for name in own.Normed(4, 8, 3).state_dict()
    }


@pytest.mark.parametrize("kind", [own.Normed, own.Standardised, own.Padded, own.Scaled])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_saved_network_loads_into_a_new_one(kind: Any, device: str, tmp_path: Any) -> None:
    net = network(made(kind, 2))
    larger = rkt.rescale(net, 2, X)
    rkt.save(larger, tmp_path / "out.safetensors")
    with torch.device(device):
        empty = copy.deepcopy(net).to(device)
    loaded = rkt.load(empty, tmp_path / "out.safetensors").eval()
    x = image(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(loaded(x), larger(x), atol=1e-6)


@pytest.mark.parametrize("options", [{"mode": "supersample"}, {"mode": "supersample", "method": "dilate"}, {}], ids=str)
@pytest.mark.parametrize("kind", [own.Normed, own.Scaled, own.Padded, own.Same, own.Standardised, own.Equalised])
def test_a_file_rescaled_by_names_loads_right_or_not_at_all(kind: Any, options: Any, tmp_path: Any) -> None:
    def build() -> nn.Module:
        return own.shaken(nn.Sequential(made(kind, channels=3), made(kind, channels=8)))

    net = build()
    save_file(net.state_dict(), tmp_path / "in.safetensors")
    rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, **options)
    if kind in (own.Standardised, own.Equalised):
        with pytest.raises(RekernelError, match=r"computes the weight .* use rekernel\.torch\.rescale, or"):
            rkt.load(build(), tmp_path / "out.safetensors")
        return
    plain = nn.Sequential(net[0].plain(), net[1].plain()).eval()
    larger = rkt.load(build(), tmp_path / "out.safetensors").eval()
    right = rkt.rescale(plain, 2, X, mode="supersample", **{k: v for k, v in options.items() if k == "method"})
    x = image(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(larger(x), right(x), atol=1e-5)
    assert "with a forward method of its own" in " ".join(larger.rekernel_plan.warnings)


def test_a_plan_that_bakes_a_weight_is_refused_by_another_model() -> None:
    plan = rkt.rescale(network(made(own.Standardised)), 2, X).rekernel_plan
    plan = rk.Plan.from_json(plan.to_json())
    assert [m.kind for m in plan.modules] == ["bake"]
    from rekernel.torch.editing.apply import apply_plan

    other = network(made(own.Normed))
    before = repr(other)
    with pytest.raises(RekernelError, match="is not a convolution that computes its weight"):
        apply_plan(other, plan)
    assert repr(other) == before


@pytest.mark.parametrize("activation", [True, False])
def test_a_linear_layer_keeps_what_its_forward_method_adds(activation: bool) -> None:
    class Reads(nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x).relu() if activation else F.linear(x, self.weight, self.bias)

    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), Reads(512, 5), nn.Linear(5, 3)).eval()
    larger = rkt.rescale(net, 2, X, mode="supersample", method="dilate")
    plain = nn.Sequential(net[0], net[1], nn.Linear(512, 5), nn.ReLU() if activation else nn.Identity(), net[3])
    plain[2].load_state_dict(net[2].state_dict())
    x = image(1, 3, 32, 32)
    with torch.no_grad():
        right = rkt.rescale(plain, 2, X, mode="supersample", method="dilate")(x)
        assert torch.allclose(larger(x), right, atol=1e-5)
    assert isinstance(larger[2], Reads) == activation


def test_hooks_and_modules_of_a_kept_layer_stay() -> None:
    net, seen = network(made(own.Scaled, 2)), []
    handle = net[1].register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    larger = rkt.rescale(net, 2, X, inplace=True)
    seen.clear()  # the passes of planning and of the check
    larger(torch.zeros(1, 3, 32, 32))
    assert seen == [(1, 8, 16, 16)]
    handle.remove()
    larger(torch.zeros(1, 3, 32, 32))
    assert seen == [(1, 8, 16, 16)]


def test_arguments_beside_the_image_are_not_padded_around() -> None:
    """At stride 2 the new layer needs another padding on each side, and what else it is given may need it, too."""
    net = network(made(own.WithScale, 2))
    with pytest.raises(RekernelError, match="it takes arguments beside the image"):
        rkt.rescale(net, 2, X, method="cubic", mode="supersample")
    assert isinstance(rkt.rescale(network(made(own.WithScale)), 2, X, mode="supersample")[1], own.WithScale)


def test_a_causal_convolution_with_a_cache_keeps_both() -> None:
    """WanCausalConv3d(x, cache_x): the frames stay, so the padding in time and the cache do."""

    class Causal(nn.Conv3d):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, padding=1)
            self._padding, self.padding = (1, 1, 1, 1, 2, 0), (0, 0, 0)

        def forward(self, x: Any, cache_x: Any = None) -> Any:
            padding = list(self._padding)
            if cache_x is not None:
                x = torch.cat([cache_x, x], dim=2)
                padding[4] -= cache_x.shape[2]
            return super().forward(F.pad(x, padding))

    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Causal(3, 3, 3)

        def forward(self, x: Any) -> Any:
            return torch.cat([self.conv(x[:, :, :2]), self.conv(x[:, :, 2:], x[:, :, :2])], 2)

    torch.manual_seed(0)
    net, video = Streams().eval(), torch.zeros(1, 3, 4, 16, 16)
    larger = rkt.rescale(net, (1, 2, 2), video, mode="supersample", method="dilate")
    plain = nn.Sequential(nn.ConstantPad3d((0, 0, 0, 0, 2, 0), 0.0), nn.Conv3d(3, 3, 3, padding=(0, 1, 1))).eval()
    plain[1].load_state_dict(net.conv.state_dict())
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.allclose(net(video + 1), plain(video + 1), atol=1e-5)
        right = rkt.rescale(plain, (1, 2, 2), video, mode="supersample", method="dilate")(x)
        assert torch.allclose(larger(x), right, atol=1e-5)
    assert isinstance(larger.conv, Causal)
    with pytest.raises(RekernelError, match=r"Causal cannot be rescaled: .* arguments beside the image"):
        rkt.rescale(net, 2, video, mode="supersample")
