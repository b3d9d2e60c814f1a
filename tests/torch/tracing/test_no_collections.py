"""The garbage collector rests while a model is traced, and is as it was afterwards."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import nn

import rekernel.torch as rkt
from rekernel.errors import RekernelError
from rekernel.torch.tracing.no_collections import without_collections


class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("no")


@pytest.fixture
def on_or_off(request):
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("on_or_off", [True, False], indirect=True)
def test_the_collector_is_as_it_was_after_success_and_error(on_or_off):
    rkt.rescale(nn.Conv2d(1, 1, 3, padding=1), 2, torch.zeros(1, 1, 8, 8))
    assert gc.isenabled() is on_or_off
    with pytest.raises(RekernelError):
        rkt.rescale(Fails(), 2, torch.zeros(1, 1, 8, 8))
    assert gc.isenabled() is on_or_off


@pytest.mark.parametrize("on_or_off", [True, False], indirect=True)
def test_the_last_of_several_threads_turns_it_on_again(on_or_off):
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_collections():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with without_collections():
        thread.start()
        assert entered.wait(10)
    assert not gc.isenabled()
    leave.set()
    thread.join(10)
    assert gc.isenabled() is on_or_off


def test_a_rescaled_model_and_its_original_leave_no_cycles():
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3)), torch.zeros(1, 1, 8, 8)
    rkt.rescale(model, 2, x)  # what torch makes once
    gc.collect()
    rkt.rescale(model, 2, x)
    assert gc.collect() < 50
