"""form='auto': each layer in the cheaper form, and both kinds in one network that still does what it should."""

import pytest
import torch
from torch import nn

import rekernel.torch as rkt
from rekernel.torch.layers.factored import FactoredConv, FactoredConvTranspose

from ..conftest import GROWS


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 256, 1), nn.ReLU(), nn.Conv2d(256, 256, 3, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(256, 8, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8),
    )  # fmt: skip


def test_depthwise_layers_are_dense_and_wide_ones_factored():
    model = rkt.rescale(network(), 2, torch.zeros(1, 3, 16, 16), form="auto", **GROWS)
    assert isinstance(model[6], FactoredConv)
    assert type(model[2]) is nn.Conv2d
    assert type(model[4]) is nn.Conv2d  # pointwise: not touched at all
    assert isinstance(model[8], FactoredConvTranspose)
    assert type(model[10]) is nn.ConvTranspose2d
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 64, 64)


def test_it_is_saved_and_loaded_as_it_was(tmp_path):
    model = rkt.rescale(network(), 2, torch.zeros(1, 3, 16, 16), form="auto", **GROWS).eval()
    rkt.save(model, tmp_path / "m.safetensors")
    loaded = rkt.load(network(), tmp_path / "m.safetensors").eval()
    x = torch.randn(1, 3, 32, 32)
    assert isinstance(loaded[6], FactoredConv)
    assert torch.equal(model(x), loaded(x))


@pytest.mark.parametrize(("scale", "taps"), [(1.5, None), (2, "same-extent"), (2, 5)])
def test_what_cannot_be_factored_is_dense(scale, taps):
    model = rkt.rescale(network(), scale, torch.zeros(1, 3, 16, 16), form="auto", taps=taps, **GROWS)
    assert not any(isinstance(module, FactoredConv) for module in model.modules())
