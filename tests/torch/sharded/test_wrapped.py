"""Wrappers around one network, without other processes: looked through where it is saved, refused where it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))


@pytest.fixture
def larger() -> Any:
    return rkt.rescale(build(), 2, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: nn.DataParallel(torch.compile(model))])
def test_a_wrapped_network_is_saved_as_itself(wrap: Any, larger: nn.Module, tmp_path: Path) -> None:
    rkt.save(larger, tmp_path / "plain.safetensors")
    rkt.save(wrap(larger), tmp_path / "wrapped.safetensors")
    assert (tmp_path / "plain.safetensors").read_bytes() == (tmp_path / "wrapped.safetensors").read_bytes()


def test_a_wrapped_network_does_not_change(larger: nn.Module, tmp_path: Path) -> None:
    rkt.save(larger, tmp_path / "out.safetensors")
    for what in (
        lambda model: rkt.load(model, tmp_path / "out.safetensors"),
        lambda model: rkt.rescale(model, 2, torch.zeros(1, 3, 8, 8)),
        lambda model: rkt.apply_plan(model, larger.rekernel_plan),
    ):
        with pytest.raises(RekernelError, match=r"^this model is wrapped in DataParallel, .* and wrap the result$"):
            what(nn.DataParallel(build()))


def test_layers_first_and_weights_later(larger: nn.Module, tmp_path: Path) -> None:
    rkt.save(larger, tmp_path / "out.safetensors")
    with torch.device("meta"):
        model = build()
    assert rkt.load(model, tmp_path / "out.safetensors", weights=False) is model
    assert all(p.is_meta for p in model.parameters())
    assert model[0].weight.shape == larger[0].weight.shape
    rkt.load(model, tmp_path / "out.safetensors")
    for name, value in larger.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    with pytest.raises(RekernelError, match="was rescaled already"):
        rkt.load(model, tmp_path / "out.safetensors")


def test_layers_take_no_weights_of_another_scale(tmp_path: Path) -> None:
    rkt.save(rkt.rescale(build(), 3, torch.zeros(1, 3, 8, 8)), tmp_path / "out.safetensors")
    with torch.device("meta"):
        model = build()
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 8, 8, device="meta"))
    with pytest.raises(RekernelError, match=r"was rescaled by 3(x3)?, but this Sequential by 2(x2)?; rescale it as"):
        rkt.load(larger, tmp_path / "out.safetensors")
