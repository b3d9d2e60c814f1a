"""Grids whose new size falls between two whole numbers: every layer, and every framework, rounds alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

from .conftest import GROWS  # noqa: E402


def classifier() -> nn.Module:
    """7x7 pixels behind the flatten: 10.5x10.5 at one and a half times the size."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Flatten(), nn.Linear(196, 5)).eval()


def test_a_linear_layer_reads_the_grid_that_the_convolution_before_it_gives() -> None:
    larger = rkt.rescale(classifier(), 1.5, torch.zeros(1, 1, 14, 14), **GROWS)
    assert larger[0](torch.zeros(1, 1, 21, 21)).shape[2:] == (11, 11)
    assert larger[2].in_features == 4 * 11 * 11
    assert larger(torch.zeros(1, 1, 21, 21)).shape == (1, 5)


def test_a_written_grid_and_the_layers_behind_it_agree() -> None:
    model = nn.Sequential(nn.Linear(3, 2 * 5 * 5), nn.Unflatten(1, (2, 5, 5)), nn.Conv2d(2, 1, 3, padding=1))
    larger = rkt.rescale(model, 1.3, torch.zeros(1, 3))  # 6.5
    assert larger(torch.zeros(1, 3)).shape == (1, 1, 7, 7)


def test_a_fixed_upsampling_and_the_sum_behind_it_agree() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(1, 2, 3, 2, 1), nn.Upsample(size=(14, 14))
            self.read = nn.Linear(2 * 14 * 14, 2)

        def forward(self, x: Any) -> Any:
            return self.read((self.up(self.down(x)) + x).flatten(1))

    scale = 10.5 / 14  # 14 -> 10.5, beside the 7 -> 5.25 of the strided layer
    larger = rkt.rescale(Skip(), scale, torch.zeros(1, 1, 14, 14), **GROWS)
    assert larger.up.size == (11, 11)


def test_torch_and_onnx_plan_the_same_sizes(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = classifier()
    torch.onnx.export(model, (torch.zeros(1, 1, 14, 14),), tmp_path / "m.onnx", dynamo=True)
    plan = rk.plan_source(tmp_path / "m.onnx", scale=1.5, **GROWS)[""]
    traced = rkt.rescale(model, 1.5, torch.zeros(1, 1, 14, 14), **GROWS).rekernel_plan
    assert {c.kind: [o.new for o in c.operators] for c in plan.changed} == {
        c.kind: [o.new for o in c.operators] for c in traced.changed
    }
