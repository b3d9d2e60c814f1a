"""Precision and recall of sets that are planted: the same, a corner of the true ones, and far away."""

import numpy as np
import pytest
from precision_recall import NEIGHBOURS, precision_recall


@pytest.fixture
def real():
    return np.random.default_rng(3).normal(size=(200, 5))


def test_the_same_rows_are_all_within_reach(real):
    assert [m.value for m in precision_recall(real, real)] == [1, 1]


def test_a_set_that_lacks_half_is_precise_and_recalls_half(real):
    both = np.concatenate([real, real + 100])
    precision, recall = precision_recall(both, real)
    assert (precision.value, recall.value) == (1, 0.5)
    assert recall.low < 0.5 < recall.high


def test_noise_is_neither(real):
    assert [m.value for m in precision_recall(real, real + 100)] == [0, 0]


def test_reach_is_the_distance_of_the_third_nearest_other_row():
    real = np.array([[0.0], [1], [3], [7], [100]])  # from 0 the third nearest other is 7 away
    for far, expected in ((-6.9, 1), (-7.1, 0)):
        assert precision_recall(real[: NEIGHBOURS + 1], np.full((4, 1), far))[0].value == expected
