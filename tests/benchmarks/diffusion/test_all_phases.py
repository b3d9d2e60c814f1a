"""Guidance by all phases of the block grid is the mean of guidance at each phase."""

import all_phases
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput

from rekernel.diffusion import UpsampleGuidance

OPTIONS = {"theta": 1.5, "eta": 1.0, "enlarge": "cubic"}
BLOCKS = {**OPTIONS, "enlarge": "nearest"}  # the smooth U has a border, where nothing moves on


class Parts:
    """A pipeline of pixels, as far as guidance reads one."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = UNet2DModel(
            8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        ).eval()  # fmt: skip
        self.scheduler = DDIMScheduler()


@torch.no_grad()
def test_at_one_phase_it_is_upsample_guidance(monkeypatch):
    pipe, x = Parts(), torch.randn(2, 1, 16, 16)
    with UpsampleGuidance(2, **OPTIONS).attach(pipe):
        expected = pipe.unet(x, 600)[0]
    monkeypatch.setattr(all_phases, "PHASES", [(0, 0)])
    with all_phases.AllPhases(pipe, 8, **OPTIONS).attached() as guided:
        made = pipe.unet(x, 600)[0]
    assert torch.allclose(made, expected, atol=1e-5)
    assert guided.low_passes == 1
    assert "forward" not in vars(pipe.unet)


class Circular(torch.nn.Module):
    """A network that moves with its picture at the full size; its low-resolution pass sees blocks, which do not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")

    def forward(self, sample, timestep, class_labels=None):
        return UNet2DOutput(torch.tanh(self.convolution(sample)))


@torch.no_grad()
@pytest.mark.parametrize("shift", [(0, 1), (1, 1)])
def test_at_all_phases_a_moved_picture_gets_the_moved_prediction_and_at_one_it_does_not(shift, monkeypatch):
    pipe, x = Parts(), torch.randn(1, 1, 16, 16)
    pipe.unet = Circular()

    def error():
        with all_phases.AllPhases(pipe, 8, **BLOCKS).attached():
            moved, plain = (pipe.unet(each, 600)[0] for each in (torch.roll(x, shift, (-2, -1)), x))
        return (moved - torch.roll(plain, shift, (-2, -1))).abs().max()

    assert error() < 1e-5
    monkeypatch.setattr(all_phases, "PHASES", [(0, 0)])
    assert error() > 1e-3
