"""What `recalibrate` says of images of the wrong size, and of models that take more than one image."""

import pytest
import torch
from torch import nn

import rekernel.torch as rkt
from rekernel import RekernelError


def classifier():
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 64, 3))


def everywhere():
    """A network that runs at any size."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3, 1, 1))


@pytest.mark.parametrize("model", [classifier(), everywhere()])
@pytest.mark.parametrize("scale", [2, (2, 1)])
def test_images_of_the_trained_size_are_refused_and_change_nothing(model, scale):
    larger = rkt.rescale(model, scale, torch.zeros(1, 1, 16, 16))
    before = larger[1].running_mean.clone()
    new = "32x32" if scale == 2 else "32x16"
    with pytest.raises(RekernelError, match=rf"has the trained size 16x16, and this Sequential was rescaled for {new}"):
        rkt.recalibrate(larger, [torch.rand(4, 1, 16, 16)])
    assert torch.equal(larger[1].running_mean, before)


def test_forward_runs_them_all_the_same_and_other_sizes_go_through():
    larger = rkt.rescale(everywhere(), 2, torch.zeros(1, 1, 16, 16))
    rkt.recalibrate(larger, [torch.rand(4, 1, 16, 16)], forward=lambda model, batch: model(batch))
    rkt.recalibrate(larger, [torch.rand(4, 1, 40, 48)])
    rkt.recalibrate(everywhere(), [torch.rand(4, 1, 16, 16)])  # no plan tells a size


def test_another_size_that_does_not_run_names_the_new_one():
    larger = rkt.rescale(classifier(), 2, torch.zeros(1, 1, 16, 16))
    with pytest.raises(RekernelError, match=r"batch 1, image \(4, 1, 24, 24\).*reads images of the new size, 32x32"):
        rkt.recalibrate(larger, [torch.rand(4, 1, 24, 24)])


def test_missing_inputs_and_the_line_are_named():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x, timestep):
            return self.norm(x) * timestep

    class Broken(Timed):
        def forward(self, x):
            return {}["missing"]

    with pytest.raises(RekernelError, match=r"also needs timestep: pass forward=lambda model, batch: model\(batch, "):
        rkt.recalibrate(Timed(), [torch.rand(4, 1, 8, 8)])
    with pytest.raises(RekernelError, match=r"Broken does not run: .*test_recalibration\.py, line \d+"):
        rkt.recalibrate(Broken(), [torch.rand(4, 1, 8, 8)])
