"""Which axes of the example input are space, the first convolution tells."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402


class Around(nn.Module):
    """A convolution, with what the model does to its input before it and to the features behind it."""

    def __init__(self, conv: nn.Module, before: Any, behind: Any = lambda y: y.flatten(2).mean(-1)) -> None:
        super().__init__()
        self.conv, self.before, self.behind = conv, before, behind

    def forward(self, x: Any) -> Any:
        return self.behind(self.conv(self.before(x)))


CHANNELS_LAST = Around(nn.Conv2d(3, 8, 3, padding=1), lambda x: x.permute(0, 3, 1, 2))
FEATURES_LAST = Around(nn.Conv1d(8, 8, 3, padding=1), lambda x: x.transpose(1, 2))
FRAMES = Around(nn.Conv2d(3, 8, 3, padding=1), lambda x: x.flatten(0, 1), lambda y: y.mean((0, 2, 3))[None])
VIDEO = Around(nn.Conv3d(3, 8, 3, padding=1), lambda x: x.transpose(1, 2))
ONE_CHANNEL = Around(nn.Conv2d(1, 8, 3, padding=1), lambda x: x[:, None])


@pytest.mark.parametrize(
    ("model", "shape", "way"),
    [
        (CHANNELS_LAST, (1, 16, 16, 3), "wrap the model so that it takes (N, C, *spatial)"),
        (FEATURES_LAST, (1, 32, 8), "wrap the model so that it takes (N, C, *spatial)"),
        (FRAMES, (1, 4, 3, 16, 16), "pass scale=(1, 2, 2)"),
        (VIDEO, (1, 4, 3, 16, 16), "pass scale=(1, 2, 2)"),
    ],
)
def test_channels_and_pictures_are_not_rescaled(model: Any, shape: Any, way: str) -> None:
    with pytest.raises(rk.RekernelError) as refused:
        rkt.rescale(model.eval(), 2, torch.zeros(shape))
    assert str(refused.value).startswith("conv: reads ")
    assert way in str(refused.value)


@pytest.mark.parametrize("model", [FRAMES, VIDEO])
def test_the_scale_that_the_message_names_works(model: Any) -> None:
    x = torch.randn(1, 4, 3, 32, 32)
    larger = rkt.rescale(model.eval(), (1, 2, 2), torch.zeros(1, 4, 3, 16, 16))
    with torch.no_grad():
        torch.testing.assert_close(larger(x), model(F.avg_pool3d(x, (1, 2, 2))), atol=1e-5, rtol=1e-4)


def test_an_image_without_its_channel_axis_is_noted() -> None:
    notes = rkt.rescale(ONE_CHANNEL.eval(), 2, torch.zeros(1, 16, 32)).rekernel_plan.warnings
    note = next(note for note in notes if note.startswith("conv: reads 16x32 pixels"))
    assert "axis 1 keeps its size" in note


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 8, 12)])
def test_usual_images_are_taken_without_a_word(shape: Any) -> None:
    cut = Around(nn.Conv2d(12, 8, 3, padding=1), lambda x: F.pixel_unshuffle(x, 2))
    for model in (Around(nn.Conv2d(3, 8, 3, padding=1), lambda x: x), cut):
        notes = rkt.rescale(model.eval(), 2, torch.zeros(shape)).rekernel_plan.warnings
        assert not any("reads" in note and "axis" in note for note in notes)
