"""A reshape splits a grid only where it puts a number of pixels that stays behind an axis that grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel.torch.checking.grown_shapes import group_of_pixels  # noqa: E402


class OnTokens(nn.Module):
    """A layer that reads tokens, with the reshape back to the grid that the test asks for."""

    def __init__(self, dims: int, back: Any) -> None:
        super().__init__()
        conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.first, self.mix, self.last = conv(3, 8, 3, padding=1), nn.Linear(8, 8), conv(8, 3, 3, padding=1)
        self.back = back

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        tokens = self.mix(y.flatten(2).transpose(1, 2))
        return self.last(self.back(tokens.transpose(1, 2), y))


BACK: dict[str, Any] = {
    "reshape": lambda t, y: t.reshape(y.shape),
    "view": lambda t, y: t.contiguous().view(*y.shape),
    "unflatten": lambda t, y: t.unflatten(2, y.shape[2:]),
    "heads": lambda t, y: t.reshape(y.shape[0], 2, 4, *y.shape[2:]).flatten(1, 2),
}


@pytest.mark.parametrize("mode", ["auto", "supersample"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("scale", [2, (1, 2), (1, 3), (1, 2, 2), (1, 1, 2), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("back", BACK)
def test_tokens_that_become_the_grid_again_are_not_split(back: str, scale: Any, batch: int, mode: str) -> None:
    dims = len(scale) if isinstance(scale, tuple) else 2
    model = OnTokens(dims, BACK[back]).eval()
    larger: Any = rkt.rescale(model, scale, torch.zeros(batch, 3, *[8] * dims), mode=mode)
    assert not any("groups of" in note for note in larger.rekernel_plan.warnings)


@pytest.mark.parametrize(("inputs", "outputs", "scales", "group"), [
    # tokens to the grid and back, at scales of which one is 1
    (((2, 5, 64), (2, 5, 128)), ((2, 5, 8, 8), (2, 5, 16, 8)), (2.0, 1.0), 1),
    (((2, 5, 8, 8), (2, 5, 16, 8)), ((2, 5, 64), (2, 5, 128)), (2.0, 1.0), 1),
    (((1, 5, 512), (1, 5, 1024)), ((1, 5, 8, 8, 8), (1, 5, 8, 16, 8)), (1.0, 2.0, 1.0), 1),
    # a fixed number of windows, each of which grows
    (((1, 8, 8), (1, 16, 16)), ((1, 4, 2, 4, 2), (1, 4, 4, 4, 4)), (2.0, 2.0), 1),
    # windows of a fixed number of pixels, in every order
    (((1, 8, 8), (1, 16, 16)), ((1, 4, 2, 4, 2), (1, 8, 2, 8, 2)), (2.0, 2.0), 4),
    (((1, 5, 64), (1, 5, 256)), ((1, 5, 16, 4), (1, 5, 64, 4)), (2.0, 2.0), 4),
    (((1, 5, 8, 8), (1, 5, 8, 16)), ((1, 5, 8, 2, 4), (1, 5, 8, 4, 4)), (1.0, 2.0), 4),
    # windows that lie in the batch
    (((32, 4, 5), (128, 4, 5)), ((2, 4, 4, 4, 5), (2, 8, 8, 4, 5)), (2.0, 2.0), 1),
    (((32, 4, 5), (128, 4, 5)), ((16, 2, 4, 5), (64, 2, 4, 5)), (2.0, 2.0), 1),
])  # fmt: skip
def test_only_pixels_behind_a_growing_axis_are_a_group(
    inputs: Any, outputs: Any, scales: Sequence[float], group: int
) -> None:
    assert group_of_pixels(inputs, outputs, inputs[0][0] if inputs[0][0] != 32 else 2, scales) == group


def test_windows_of_pixels_are_noted_at_a_scale_of_one_axis() -> None:
    model = OnTokens(2, lambda t, y: t.reshape(*t.shape[:2], -1, 4).mean(-1, keepdim=True).expand(-1, -1, -1, 4)
                     .reshape(y.shape)).eval()  # fmt: skip
    for scale in (2, (1, 2)):  # at (2, 1) the groups are the rows of the grid, which keep their size
        larger: Any = rkt.rescale(model, scale, torch.zeros(1, 3, 8, 8), check=False)
        assert any("groups of 4 pixels" in note for note in larger.rekernel_plan.warnings), scale
