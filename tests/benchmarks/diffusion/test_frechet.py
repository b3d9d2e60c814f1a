"""The Frechet distance against another way to compute it, its bias, and what its interval promises."""

import frechet
import numpy as np
import pytest
from scipy.linalg import sqrtm


def test_the_distance_is_that_of_the_textbook_formula_with_a_matrix_square_root():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(80, 7)) @ rng.normal(size=(7, 7))
    b = rng.normal(size=(50, 7)) @ rng.normal(size=(7, 7)) + rng.normal(size=7)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b)))
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet.frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_fewer_rows_than_features_give_a_finite_distance():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(5, 20)), rng.normal(size=(6, 20))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    # The nuclear norm of A^1/2 B^1/2 is the trace term; singular values need no square root of a singular matrix.
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    shared = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_float32_features_are_summed_in_float64():
    x = np.random.default_rng(2).normal(size=(4000, 4)).astype(np.float32)
    shifted = x.astype(np.float64) + 4096  # float32 sums of these lose the third digit of the variance
    assert frechet.frechet_distance(shifted.astype(np.float32), shifted) < 1e-6


def test_two_sets_of_one_distribution_are_nearer_the_larger_they_are():
    rng = np.random.default_rng(3)
    real = rng.normal(size=(4000, 16))
    floors = [np.mean([frechet.frechet_distance(real, rng.normal(size=(n, 16))) for _ in range(5)]) for n in (64, 512)]
    assert 4 < floors[0] / floors[1] < 16  # as 1/N: 8


def test_the_interval_holds_the_mean_of_fresh_sets_nineteen_times_in_twenty():
    rng = np.random.default_rng(4)
    real = rng.normal(size=(3000, 6))

    def made() -> np.ndarray:
        return 1.3 * rng.normal(size=(150, 6)) + 0.5

    mean = np.mean([frechet.frechet_distance(real, made()) for _ in range(300)])
    intervals = [frechet.frechet_interval(real, made(), resamples=100) for _ in range(60)]
    held = sum(low <= mean <= high for _, low, high in intervals)
    assert held >= 51  # of 60; the plain percentile interval sits a whole bias too high
    assert all(low <= value <= high for value, low, high in intervals)


@pytest.mark.parametrize("shapes", [((9, 3), (9, 4)), ((9, 3), (1, 3)), ((9,), (9,))])
def test_features_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(ValueError, match=r"pass \(N, F\) and \(M, F\)"):
        frechet.frechet_distance(*(np.zeros(shape) for shape in shapes))
