"""Poolings of a model into which a rescaled file is loaded: one of a traced model, and one converted by names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.plan.changes import ModuleChange  # noqa: E402

GROWS = {"mode": "supersample", "method": "dilate"}


def network(pool: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(4, 2, 3, padding=1)
    ).eval()  # fmt: skip


@pytest.mark.parametrize("pool", [
    nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(2, divisor_override=3),
], ids=repr)  # fmt: skip
def test_a_saved_model_says_the_same_when_it_is_loaded(pool: Any, tmp_path: Path) -> None:
    for number, options in enumerate((GROWS, {"mode": "supersample", "method": "optimal"})):
        larger = rkt.rescale(network(pool), 2, torch.zeros(1, 3, 15, 18), **options)
        rkt.save(larger, tmp_path / f"{number}.safetensors")
        x = torch.randn(1, 3, 30, 36)
        with torch.no_grad():
            assert torch.equal(rkt.load(network(pool), tmp_path / f"{number}.safetensors")(x), larger(x))


@pytest.mark.parametrize("geometry", [(0, 2), (2, 0)])
def test_a_plan_whose_windows_are_impossible_is_refused_by_name(geometry: tuple[int, int]) -> None:
    k, t = geometry
    window = rk.AxisGeometry(k, t, (0, 0))
    for axes in ((window,) * 2, (rk.AxisGeometry(2, 2, (0, 0)),)):
        change = ModuleChange("2", "max-pool", "", axes, axes)
        model = network(nn.MaxPool2d(2))
        with pytest.raises(
            rk.RekernelError, match=r"2: this pooling has 2 spatial axes.*the plan is for another model"
        ):
            rkt.apply_plan(model, rk.Plan((), modules=(change,)))


def converted(model: nn.Module, folder: Path, **options: Any) -> Path:
    save_file(model.state_dict(), folder / "in.safetensors")
    rk.convert(folder / "in.safetensors", folder / "out.safetensors", scale=2, **options)
    return folder / "out.safetensors"


@pytest.mark.parametrize("size", [32, 33, 34, 35])
def test_a_file_that_knows_no_size_gives_twice_the_pixels_at_every_size(size: int, tmp_path: Path) -> None:
    """By names alone nothing tells how many pixels are left over in the last window."""
    model = network(nn.MaxPool2d(3, 2, ceil_mode=True))
    larger = rkt.load(network(nn.MaxPool2d(3, 2, ceil_mode=True)), converted(model, tmp_path, **GROWS))
    with torch.no_grad():
        old = model(torch.zeros(1, 3, size, size)).shape[-1]
        assert larger(torch.zeros(1, 3, 2 * size, 2 * size)).shape[-1] == 2 * old


def test_the_window_in_front_of_linear_layers_reads_what_it_read(tmp_path: Path) -> None:
    """A ResNet of old: a window of 4 over 4 pixels, and a linear layer that has no pixels in its names."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4),
            nn.Flatten(), nn.Linear(8, 5),
        ).eval()  # fmt: skip

    larger = rkt.load(build(), converted(build(), tmp_path, mode="supersample", method="optimal"))
    x = torch.ones(1, 3, 4, 4)
    with torch.no_grad():
        assert larger[4](torch.randn(1, 8, 8, 8)).shape == (1, 8, 1, 1)
        assert larger(torch.ones(1, 3, 8, 8)).shape == build()(x).shape
