"""What the trace cannot follow is named, not taken for a layer that nothing happens to."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402

X = torch.zeros(1, 3, 16, 16)


@torch.jit.script
def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def canvas(x: Any) -> Any:
    wide = torch.zeros(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2)
    wide[:, :, 1:-1, 1:-1] = x
    return wide


class Hidden(nn.Module):
    def __init__(self, between: Any, padding: int = 1) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=padding), between

    def forward(self, x: Any) -> Any:
        return self.b(self.between(self.a(x)))


@pytest.mark.parametrize(
    ("between", "padding"),
    [
        (lambda x: swish(x), 1),  # a scripted function itself cannot be copied
        (torch.vmap(torch.relu), 1),
        (lambda x: torch.from_numpy(x.detach().numpy().copy()), 1),
        (canvas, 0),
    ],
    ids=["script", "vmap", "numpy", "canvas"],
)
def test_a_layer_behind_code_outside_torchs_functions_is_named(between: Any, padding: int) -> None:
    notes = rkt.rescale(Hidden(between, padding).eval(), 2, X).rekernel_plan.warnings
    assert any(note.startswith("b: reads a grid that grows, and stays as trained") for note in notes)


def test_layers_that_are_followed_or_do_not_grow_are_not_named() -> None:
    assert rkt.rescale(Hidden(torch.relu).eval(), 2, X).rekernel_plan.warnings == ()
    assert rkt.rescale(Hidden(lambda x: swish(x)).eval(), 2, X, mode="absorb").rekernel_plan.warnings == ()
