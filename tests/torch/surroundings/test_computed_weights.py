"""Layers that compute their weight keep it, and its place in memory, whatever mode and format the model is in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402


class Noisy(nn.Module):
    """A parametrisation that drops weights at random, and counts its calls, while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight: Any) -> Any:
        if self.training:
            self.calls += 1
        return F.dropout(weight, 0.3, self.training) * (1 + self.calls)


class Standardised(nn.Conv2d):
    """Weight standardisation by a batch norm over rows, which makes a weight whose channels are not last."""

    def forward(self, x: Any) -> Any:
        rows = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True)
        return self._conv_forward(x, rows.reshape(self.weight.shape), self.bias)


def noisy(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Noisy())
    return layer


COMPUTED: dict[str, Any] = {
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm of old": spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "weight norm of old": weight_norm,
    "a random parametrisation": noisy,
    "two parametrisations": lambda layer: noisy(parametrizations.spectral_norm(layer)),
}
MODES = ["auto", "supersample", "absorb"]
X = torch.zeros(1, 3, 16, 16)


def network(kind: str, dims: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    first = COMPUTED[kind](conv(3, 8, 3, padding=1))
    return nn.Sequential(first, nn.Dropout(0.5), COMPUTED[kind](conv(8, 8, 3, 2, 1)), nn.ReLU(), conv(8, 3, 3))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", COMPUTED)
def test_training_mode_changes_no_weight_and_is_kept(kind: str, mode: str) -> None:
    expected = rkt.rescale(network(kind).eval(), 2, X, mode=mode)
    model = network(kind).train()
    model[1].eval()  # as in fine-tuning: some parts stay as they were
    before = copy.deepcopy(model.state_dict())
    got = rkt.rescale(model, 2, X, mode=mode)
    for (name, one), other in zip(expected.state_dict().items(), got.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert [m.training for m in got.children()] == [True, False, True, True, True]
    assert [m.training for m in model.children()] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    in_place = rkt.rescale(model, 2, X, mode=mode, inplace=True)
    assert torch.equal(in_place[0].weight, expected[0].weight)
    assert in_place[0].training


def test_a_file_loads_into_a_model_in_training_mode(tmp_path: Path) -> None:
    plain = rkt.rescale(network("spectral norm").eval(), 2, X)
    rkt.save(plain, tmp_path / "out.safetensors")
    loaded = rkt.load(network("spectral norm").train(), tmp_path / "out.safetensors")
    assert torch.equal(loaded[0].weight, plain[0].weight)
    assert all(m.training for m in loaded.modules())


def channels_last(model: nn.Module, dims: int = 2) -> nn.Module:
    return model.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d).eval()


def is_last(model: nn.Module) -> list[bool]:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    weights = [p for p in model.parameters() if p.ndim in formats and p.shape[-1] > 1]
    return [w.is_contiguous(memory_format=formats[w.ndim]) and not w.is_contiguous() for w in weights]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", COMPUTED)
def test_channels_stay_last(kind: str, dims: int, mode: str) -> None:
    model = channels_last(network(kind, dims), dims)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, *[8] * dims), mode=mode)
    assert is_last(larger) == [True] * 3
    plain = rkt.rescale(network(kind, dims).eval(), 2, torch.zeros(1, 3, *[8] * dims), mode=mode)
    assert is_last(plain) == [False] * 3
    for one, other in zip(larger.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_channels_stay_last_in_a_layer_that_computes_its_weight_itself(mode: str) -> None:
    model = channels_last(nn.Sequential(Standardised(3, 8, 3, padding=1), nn.ReLU(), Standardised(8, 3, 3, padding=1)))
    assert is_last(rkt.rescale(model, 2, X, mode=mode)) == [True, True]


def test_channels_stay_last_where_a_file_is_loaded(tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({k: v.contiguous() for k, v in network("weight norm").state_dict().items()}, source)
    rk.convert(source, target, scale=2, hints=rk.Hints(stride={"0": 1, "2": 2, "4": 1}, padding={"4": 0}))
    loaded = rkt.load(channels_last(network("weight norm")), target)
    assert is_last(loaded) == [True] * 3
