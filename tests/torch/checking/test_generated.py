"""300 generated networks: each is rescaled right, or refused, or its plan says why not; none is silently wrong."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel.torch as rkt
from rekernel import RekernelError

from .generated import generated

RIGHT = 0.35
"""Error on smooth pictures below which an answer counts as right: a network of random weights has no tolerance."""
MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


def smooth_pictures(shape, scale=2):
    """Pictures at the new size from few random values, which have nothing to do with the probes of the check."""
    dims = len(shape) - 2
    few = torch.randn(*shape[:2], *[5] * dims, generator=torch.Generator().manual_seed(1))
    return F.interpolate(few, [n * scale for n in shape[2:]], mode=MODES[dims], align_corners=False)


def told(seed, mode, *, odd=0.25):
    """(whether a plan says something, or rescaling was refused; the error on smooth pictures)."""
    net, shape, labels = generated(seed, odd=odd)
    try:
        large = rkt.rescale(net, 2, torch.zeros(shape), **({} if mode is None else {"mode": mode}))
    except RekernelError:
        return True, float("nan"), labels
    try:
        error = rkt.equivariance_error(net, large, smooth_pictures(shape))
    except RekernelError:  # the answers have other sizes than they should have
        error = float("inf")
    return bool(large.rekernel_plan.warnings), error, labels


def silent(seeds, mode):
    """The networks that are wrong without a word."""
    found = [(seed, *told(seed, mode)) for seed in seeds]
    return [(seed, error, labels) for seed, noted, error, labels in found if not noted and not error < RIGHT]


@pytest.mark.parametrize("mode", [None, "supersample"])
def test_no_network_is_silently_wrong(mode):
    assert not silent(range(25), mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "supersample"])
def test_none_of_300_networks_is_silently_wrong(mode):
    assert not silent(range(25, 300), mode)


@pytest.mark.slow
def test_most_networks_without_odd_calls_are_rescaled_without_a_warning():
    """A check that warned of everything would pass the tests above."""
    outcomes = [told(seed, "supersample", odd=0)[0] for seed in range(100)]
    assert sum(outcomes) < 20
