"""The kernel distance against its definition, pair by pair."""

import kernel_distance
import numpy as np
import pytest


def by_definition(real, made):
    """Equation 4 of arXiv 1801.01401 (the unbiased estimate), with sums over pairs written out."""

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    def own(x):
        return np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])

    return own(real) + own(made) - 2 * np.mean([k(a, b) for a in real for b in made])


@pytest.fixture
def sets():
    rng = np.random.default_rng(5)
    return rng.normal(size=(23, 4)), rng.normal(0.4, 1.2, size=(17, 4))


@pytest.mark.parametrize("block", [1000, 5])
def test_it_is_the_unbiased_estimate_however_the_rows_are_cut(sets, block, monkeypatch):
    monkeypatch.setattr(kernel_distance, "BLOCK", block)
    real, made = sets
    measured = kernel_distance.kernel_distance(real, made, kernel_distance.own_mean(real))
    assert measured.value == pytest.approx(by_definition(real, made), rel=1e-12)
    assert measured.low <= measured.value <= measured.high


def test_a_resampled_set_makes_no_pairs_of_a_row_with_itself(sets):
    """Else each resampled distance would lie above the set's own."""
    real, made = sets
    drawn = [kernel_distance.kernel_distance(real, made, 0, seed=seed, resamples=400) for seed in range(3)]
    for measured in drawn:
        assert measured.low < measured.value < measured.high
        assert abs((measured.low + measured.high) / 2 - measured.value) < 0.4 * (measured.high - measured.low)
