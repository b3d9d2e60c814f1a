"""Measures of models that take more than one image: `forward=` runs them, and without it the message says how."""

import pytest
import torch
from torch import nn

import rekernel.torch as rkt
from rekernel import RekernelError


class Timed(nn.Module):
    """A network that also takes a time, by position or by name."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 3, stride=2, padding=1)

    def forward(self, x, timestep, *, label):
        return {"sample": self.out(self.conv(x).tanh() * timestep + label)}


def at_two(model, x):
    return model(x, 2.0, label=0.5)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    model = Timed().eval()
    example = {"x": torch.zeros(1, 1, 16, 16), "timestep": 2.0, "label": 0.5}
    return model, rkt.rescale(model, 2, example, mode="absorb")


X = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))

MEASURES = {
    "equivariance_error": lambda model, rescaled, **how: rkt.equivariance_error(model, rescaled, X, **how),
    "layer_errors": lambda model, rescaled, **how: rkt.layer_errors(model, rescaled, X, (16, 16), **how),
    "shift_sensitivity": lambda model, _, **how: rkt.shift_sensitivity(model, X, 2, size=(16, 16), **how),
}


@pytest.mark.parametrize("name", MEASURES)
def test_without_forward_the_message_names_the_inputs_that_are_missing(pair, name):
    with pytest.raises(RekernelError, match=r"it also needs timestep, label; pass forward=lambda model, x: ") as error:
        MEASURES[name](*pair)
    assert "--forward mine.py:run, with def run(model, x): return model(x, timestep=..., label=...)" in (
        error.value.on_command_line()
    )


def test_forward_gives_what_the_same_network_without_other_inputs_gives(pair):
    class Fixed(Timed):
        def forward(self, x):
            return super().forward(x, 2.0, label=0.5)

    model, rescaled = pair
    fixed = Fixed().eval()
    fixed.load_state_dict(model.state_dict())
    assert rkt.equivariance_error(model, rescaled, X, forward=at_two) < 1e-5
    assert [e.error for e in rkt.layer_errors(model, rescaled, X, (16, 16), forward=at_two)] == pytest.approx(
        [0, 0], abs=1e-5
    )
    mine = rkt.shift_sensitivity(model, X, 2, size=(16, 16), forward=at_two)
    assert mine == rkt.shift_sensitivity(fixed, X, 2, size=(16, 16)) and mine.change > 0
    small = X[:, :, :16, :16]
    assert rkt.total_stride(model, small, forward=at_two) == rkt.total_stride(fixed, small) == (2, 2)


def test_the_total_stride_takes_the_arguments_that_rescale_takes(pair):
    model, small = pair[0], torch.zeros(1, 1, 16, 16)
    assert rkt.total_stride(model, {"x": small, "timestep": 1.0, "label": 0.0}) == (2, 2)
    assert rkt.total_stride(nn.Sequential(nn.Conv2d(1, 1, 3, 4)), (small,)) == (4, 4)


@pytest.mark.parametrize("raised", [TypeError, KeyError, AssertionError, RuntimeError, IndexError])
@pytest.mark.parametrize("name", MEASURES)
def test_whatever_a_model_raises_names_its_file_and_line(name, raised):
    class Broken(nn.Module):
        def forward(self, x):
            raise raised("no")

    with pytest.raises(RekernelError, match=r"\(Broken\) does not run .*test_more_inputs\.py, line \d+"):
        MEASURES[name](Broken(), Broken(), **({"size": (16, 16)} if name == "equivariance_error" else {}))


def test_too_little_memory_is_not_called_a_wrong_input():
    class Greedy(nn.Module):
        def forward(self, x):
            raise MemoryError

    with pytest.raises(MemoryError):
        rkt.equivariance_error(Greedy(), Greedy(), X, size=(16, 16))
