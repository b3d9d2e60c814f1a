"""The check by running notices a broken rule: one rule is broken, and generated networks are rescaled by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")
import torch

import rekernel.planning.pooling as pooling
import rekernel.planning.rules as rules
import rekernel.torch as rkt
from rekernel import RekernelError
from rekernel.plan.changes import AxisOperator

from .generated import generated

ENOUGH = 25


def moved(rule):
    """A rule that pads one pixel more on the left and one less on the right."""

    def broken(*args, **kwargs):
        place = rule(*args, **kwargs)
        left, right = place.padding
        return replace(place, padding=(left + 1, right - 1))

    return broken


def unphased(rule):
    """A rule that forgets the part of a pixel by which a strided kernel has to be shifted."""
    return lambda *args, **kwargs: replace(rule(*args, **kwargs), phase=0.0)


def louder(matrix):
    """A resampling with another gain."""
    return lambda self: matrix(self) * 1.25


MUTATIONS = {
    "a pool's padding": (pooling, "pool_geometry", moved),
    "a convolution's padding": (rules, "conv_geometry", moved),
    "a stride's offset": (rules, "conv_geometry", unphased),
    "a gain": (AxisOperator, "matrix", louder),
}


def outcome(net, shape):
    """The notes, and what the new network consists of; a refusal is a note, too."""
    try:
        large = rkt.rescale(net, 2, torch.zeros(shape), mode="supersample", form="dense")
    except RekernelError as refused:
        return [str(refused)], None
    plan = large.rekernel_plan
    made = [(c.name, c.new_geometry, [o.matrix().tolist() for o in c.operators]) for c in plan.changed]
    return list(plan.warnings), [made, [(m.name, m.new_geometry) for m in plan.modules]]


@pytest.mark.slow
@pytest.mark.parametrize("what", MUTATIONS)
def test_a_broken_rule_is_caught(what, monkeypatch):
    place, name, mutation = MUTATIONS[what]
    caught, missed = 0, []
    for seed in range(400):
        net, shape, labels = generated(seed, odd=0)
        notes, made = outcome(net, shape)
        if notes or made is None:
            continue
        with monkeypatch.context() as broken:
            broken.setattr(place, name, mutation(getattr(place, name)))
            then, other = outcome(net, shape)
        if other == made:
            continue  # this network does not use the rule
        caught += bool(then)
        if not then:
            missed.append((seed, labels))
        if caught + len(missed) == ENOUGH:
            break
    assert caught >= 0.95 * (caught + len(missed)), missed
    assert caught >= 5
