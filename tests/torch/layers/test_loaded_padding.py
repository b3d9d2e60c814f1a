"""Padding in front of a layer, in a model into which a file is loaded that was converted by names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

GROWS = {"mode": "supersample", "method": "cubic"}
X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SMALL = torch.zeros(1, 3, 16, 16)


def converted(model: nn.Module, folder: Path, scale: Any = 2, **options: Any) -> Path:
    save_file(model.state_dict(), folder / "in.safetensors")
    rk.convert(folder / "in.safetensors", folder / "out.safetensors", scale=scale, **options)
    return folder / "out.safetensors"


def seeded(*modules: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    for module in modules:
        for parameter in module.parameters():
            nn.init.normal_(parameter, 0, 0.3)
    return nn.Sequential(*modules).eval()


class Active(nn.Conv2d):
    """A convolution whose class stays."""

    def forward(self, x: Any) -> Any:
        return super().forward(x).relu()


NETWORKS: dict[str, Any] = {
    "reflecting": lambda: (nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)),
    "repeating": lambda: (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ReplicationPad2d(2), nn.Conv2d(8, 3, 5)),
    "zeros": lambda: (nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ZeroPad2d(1), nn.Conv2d(8, 3, 3)),
    "a constant of zero": lambda: (nn.ConstantPad2d(1, 0.0), nn.Conv2d(3, 8, 3)),
    "circular": lambda: (nn.CircularPad2d(1), nn.Conv2d(3, 8, 3), nn.Tanh(), nn.CircularPad2d(2), nn.Conv2d(8, 3, 5)),
    "through a dropout": lambda: (nn.ReflectionPad2d(1), nn.Dropout(), nn.Identity(), nn.Conv2d(3, 8, 3)),
    "some of both": lambda: (nn.ZeroPad2d(1), nn.Conv2d(3, 8, 5, padding=1)),
    "inside another": lambda: (
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ReflectionPad2d(1)),
        nn.Sequential(nn.Sequential(nn.Conv2d(8, 3, 3)), nn.ReLU()),
    ),
    "one side": lambda: (nn.ZeroPad2d((0, 2, 2, 0)), nn.Conv2d(3, 8, 3)),
}  # fmt: skip


def padding_of(model: nn.Module) -> rk.Hints:
    """Hints that tell the padding that each layer shows itself, as a reader of the model's code would."""
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return rk.Hints(
        stride={n: m.stride[0] for n, m in convs.items()}, padding={n: m.padding[0] for n, m in convs.items()}
    )


@pytest.mark.parametrize(
    ("kind", "hinted"),
    [(kind, hinted) for kind in NETWORKS for hinted in (False, True) if hinted or kind != "one side"],
)
def test_padding_modules_are_taken_over(kind: str, hinted: bool, tmp_path: Path) -> None:
    """Without hints the file assumes even 'same' padding; with hints it knows the layer's own. Both load alike."""
    model = seeded(*NETWORKS[kind]())
    hints = padding_of(model) if hinted else None
    loaded: Any = rkt.load(seeded(*NETWORKS[kind]()), converted(model, tmp_path, hints=hints, **GROWS))
    traced: Any = rkt.rescale(model, 2, SMALL, **GROWS)
    with torch.no_grad():
        assert loaded(X).shape[2:] == traced(X).shape[2:] == (32, 32)
        assert torch.allclose(loaded(X), traced(X), atol=1e-5)
    assert not any("pads" in note for note in loaded.rekernel_plan.warnings)
    rkt.save(loaded, tmp_path / "again.safetensors")
    again = rkt.load(seeded(*NETWORKS[kind]()), tmp_path / "again.safetensors")
    assert torch.equal(again(X), loaded(X))


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("pad", [nn.ReflectionPad2d(1), nn.ZeroPad2d(1)], ids=repr)
def test_strided_layers_behind_padding(pad: nn.Module, stride: int, tmp_path: Path) -> None:
    def network() -> nn.Sequential:
        return seeded(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), pad, nn.Conv2d(4, 3, 3, stride))

    path = converted(network(), tmp_path, hints=padding_of(network()), **GROWS)
    loaded: Any = rkt.load(network(), path)
    x, small = torch.randn(1, 3, 12 * stride, 12 * stride), torch.zeros(1, 3, 6 * stride, 6 * stride)
    traced = rkt.rescale(network(), 2, small, **GROWS)
    with torch.no_grad():
        assert loaded(x).shape[2:] == (12, 12)
        assert torch.allclose(loaded(x), traced(x), atol=1e-5)


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims: int, tmp_path: Path) -> None:
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pad: Any = (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d)[dims - 1]

    def network() -> nn.Sequential:
        return seeded(pad(1), conv(3, 4, 3), nn.ReLU(), conv(4, 3, 3, padding=1))

    layout = {"0": "OIW", "*": "OIHW"} if dims == 1 else {}
    hints = rk.Hints(layout={"1": "OIW", "3": "OIW"}) if layout else None
    loaded: Any = rkt.load(network(), converted(network(), tmp_path, hints=hints, **GROWS))
    assert loaded(torch.zeros(1, 3, *[16] * dims)).shape[2:] == (16,) * dims


@pytest.mark.parametrize("pad", [nn.ZeroPad2d(1), nn.CircularPad2d(1)], ids=repr)
def test_a_reader_absorbs_behind_zeros_and_around_a_circle(pad: nn.Module, tmp_path: Path) -> None:
    def network() -> nn.Sequential:
        return seeded(pad, nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(4, 3, 3))

    hints = rk.Hints(mode={"*": "absorb", "1": "absorb"})
    loaded: Any = rkt.load(network(), converted(network(), tmp_path, hints=hints))
    with torch.no_grad():
        assert torch.allclose(loaded(X), network()(F.avg_pool2d(X, 2)), atol=1e-5)
    assert not any("pads" in note for note in loaded.rekernel_plan.warnings)  # behind the reader nothing grows


@pytest.mark.parametrize("pad", [nn.ReflectionPad2d(1), nn.ReplicationPad2d(1)], ids=repr)
def test_a_reader_cannot_absorb_behind_pixels_that_are_copied(pad: nn.Module, tmp_path: Path) -> None:
    model = seeded(pad, nn.Conv2d(3, 4, 3, 2), nn.ReLU())
    path = converted(model, tmp_path, mode="absorb")
    kind = type(pad).__name__
    with pytest.raises(rk.RekernelError, match=rf"^1.weight: absorbs.* behind 0, a {kind}.*use rekernel.torch.rescale"):
        rkt.load(model, path)
    assert model[1].weight.shape == (4, 3, 3, 3)
    exact = rkt.rescale(model, 2, SMALL, mode="absorb")  # what the message says works
    with torch.no_grad():
        assert torch.allclose(exact(X), model(F.avg_pool2d(X, 2)), atol=1e-5)


class OwnOrder(nn.Module):
    """A module whose forward method alone tells what pads what."""

    def __init__(self, by_code: bool = False) -> None:
        super().__init__()
        if not by_code:
            self.pad = nn.ReflectionPad2d(1)
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Any) -> Any:
        return self.conv(self.pad(x) if hasattr(self, "pad") else F.pad(x, (1, 1, 1, 1)))


@pytest.mark.parametrize("mode", ["supersample", "absorb"])
@pytest.mark.parametrize(("network", "named"), [
    (OwnOrder, "pad: pads, but the order"),
    (lambda: OwnOrder(by_code=True), "conv: no padding of its own; if code of the model pads"),
    (lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.ReLU(), nn.Conv2d(3, 3, 3)), "0: pads, but the order"),
    (lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(3, 3, 3)), "0: pads, but the order"),
    (lambda: nn.Sequential(nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 5)), "0, 1: pads, but the order"),
    (lambda: nn.Sequential(nn.ReflectionPad2d(1), OwnOrder(by_code=True)), "0: pads, but the order"),
    (lambda: nn.ModuleList([nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3)]), "0: pads, but the order"),
])  # fmt: skip
def test_padding_that_may_lie_in_front_is_noted(network: Any, named: str, mode: str, tmp_path: Path) -> None:
    model = network()
    path = converted(
        model, tmp_path, mode=mode, method="area" if mode == "absorb" else "cubic", hints=padding_of(model)
    )
    loaded: Any = rkt.load(model, path)
    [note] = [n for n in loaded.rekernel_plan.warnings if "rekernel.torch.rescale runs the model" in n]
    assert note.startswith(named)


def test_without_hints_the_missing_padding_is_refused_and_the_way_out_sees_it(tmp_path: Path) -> None:
    path = converted(OwnOrder(by_code=True), tmp_path, **GROWS)
    with pytest.raises(rk.RekernelError, match=r"padding \(0, 0\).*or use rekernel.torch.rescale, which also sees pad"):
        rkt.load(OwnOrder(by_code=True), path)
    assert rkt.rescale(OwnOrder(by_code=True), 2, SMALL, **GROWS)(X).shape[2:] == (32, 32)


def test_poolings_behind_zeros_grow_and_behind_copied_pixels_are_refused(tmp_path: Path) -> None:
    def network(pad: Any) -> nn.Sequential:
        return seeded(nn.Conv2d(3, 4, 3, padding=1), pad(1), nn.MaxPool2d(3, 2), nn.Conv2d(4, 3, 3, padding=1))

    options = {"mode": "supersample", "method": "dilate"}
    path = converted(network(nn.ZeroPad2d), tmp_path, **options)
    loaded: Any = rkt.load(network(nn.ZeroPad2d), path)
    traced = rkt.rescale(network(nn.ZeroPad2d), 2, SMALL, **options)
    with torch.no_grad():
        assert torch.allclose(loaded(X), traced(X), atol=1e-5)
    with pytest.raises(rk.RekernelError, match=r"^2: behind 1, a ReflectionPad2d.*convert again with mode='absorb'"):
        rkt.load(network(nn.ReflectionPad2d), path)


def test_a_layer_of_an_own_class_behind_a_padding_module(tmp_path: Path) -> None:
    options = {"mode": "supersample", "method": "dilate"}
    model = seeded(nn.ZeroPad2d(1), Active(3, 4, 3), nn.Conv2d(4, 3, 3, padding=1))
    loaded: Any = rkt.load(seeded(nn.ZeroPad2d(1), Active(3, 4, 3), nn.Conv2d(4, 3, 3, padding=1)),
                           converted(model, tmp_path, **options))  # fmt: skip
    traced = rkt.rescale(model, 2, SMALL, form="dense", **options)
    with torch.no_grad():
        assert torch.allclose(loaded(X), traced(X), atol=1e-5)
