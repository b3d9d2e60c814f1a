"""The formulas of rescaled positions against independent computations of the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rekernel as rk
from rekernel.diffusion.positions.frequencies import (
    METHODS,
    attention_temperature,
    base_frequencies,
    rescaled_frequencies,
)

TRAINED = base_frequencies(56, 10000.0)


def test_the_base_of_the_frequencies():
    assert np.allclose(TRAINED, [math.exp(-2 * i / 56 * math.log(10000)) for i in range(28)], rtol=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("noise", [1.0, 0.3, 0.0])
def test_a_scale_of_1_changes_nothing(method, noise):
    assert np.array_equal(rescaled_frequencies(TRAINED, 1, method, length=64, noise=noise), TRAINED)


def test_interpolation_is_the_trained_angle_at_the_coordinate_over_the_scale():
    places = np.arange(96)
    found = np.outer(places, rescaled_frequencies(TRAINED, 1.5, "interpolate"))
    assert np.allclose(found, np.outer(places / 1.5, TRAINED), rtol=1e-14)


def test_ntk_is_a_change_of_base():
    """theta s^(d/(d-2)), as it is usually written."""
    for scale in (1.5, 2, 4):
        base = base_frequencies(56, 10000.0 * scale ** (56 / 54))
        assert np.allclose(rescaled_frequencies(TRAINED, scale, "ntk"), base, rtol=1e-12)


@pytest.mark.parametrize("method", ["ntk", "yarn"])
@pytest.mark.parametrize("length", [26, 64, 4096])
def test_the_fastest_frequency_is_untouched_and_the_slowest_interpolated(method, length):
    found = rescaled_frequencies(TRAINED, 4, method, length=length)
    assert found[0] == pytest.approx(TRAINED[0], rel=1e-12) and found[-1] == pytest.approx(TRAINED[-1] / 4, rel=1e-12)
    assert np.all(np.diff(found / TRAINED) <= 1e-12)  # the slower, the nearer to interpolation


def test_yarn_interpolates_a_fast_frequency_that_turns_about_once_over_the_trained_axis():
    """The picture would repeat itself at its period, which is nearly the trained size."""
    for method in ("yarn", "dype"):
        found = rescaled_frequencies(TRAINED, 2, method, length=8)  # 8 / 2 pi = 1.3 turns
        assert 0.5 < found[0] / TRAINED[0] < 0.6 and np.allclose(found[1:], TRAINED[1:] / 2)


def test_yarn_by_its_definition_on_a_long_axis():
    """arXiv 2309.00071, eq. 23 with alpha = 1 and beta = 32: the boundaries that it gives for language models."""
    length, scale = 4096, 4
    for wave, found in zip(
        2 * math.pi / TRAINED, rescaled_frequencies(TRAINED, scale, "yarn", length=length), strict=True
    ):
        r = length / wave
        gamma = 0.0 if r < 1 else 1.0 if r > 32 else (r - 1) / 31
        theta = 2 * math.pi / wave
        assert found == pytest.approx((1 - gamma) * theta / scale + gamma * theta, rel=1e-12)


def test_dype_is_yarn_at_pure_noise_and_the_trained_frequencies_at_the_clean_end():
    yarn = rescaled_frequencies(TRAINED, 2, "yarn", length=64)
    assert np.array_equal(rescaled_frequencies(TRAINED, 2, "dype", length=64, noise=1.0), yarn)
    assert np.array_equal(rescaled_frequencies(TRAINED, 2, "dype", length=64, noise=0.0), TRAINED)
    rows = [rescaled_frequencies(TRAINED, 2, "dype", length=64, noise=noise) for noise in (1.0, 0.7, 0.4, 0.1, 0.0)]
    assert np.all(np.diff(rows, axis=0) >= 0) and np.all(np.diff(rows, axis=0).max(axis=1) > 0)


def test_dype_s_boundaries_are_yarn_s_times_the_squared_noise():
    """A boundary is a number of turns: lower boundaries are those of an axis that is longer by the same factor."""
    noise = 0.5
    moved = rescaled_frequencies(TRAINED, 2, "dype", length=4096, noise=noise)
    longer = rescaled_frequencies(TRAINED, 2, "yarn", length=4096 / noise**2)
    assert np.allclose(moved, longer, rtol=1e-12)


def test_frequencies_in_any_order():
    for method in METHODS:
        there = rescaled_frequencies(TRAINED, 2, method, length=64, noise=0.5)
        back = rescaled_frequencies(TRAINED[::-1], 2, method, length=64, noise=0.5)
        assert np.array_equal(there, back[::-1])


def test_an_axis_with_one_pair_of_channels_or_none():
    for method in METHODS:
        assert np.isfinite(rescaled_frequencies([1.0], 2, method, length=8, noise=0.5)).all()
        assert rescaled_frequencies([], 2, method, length=8).shape == (0,)


def test_temperature_keeps_the_entropy_of_gaussian_logits_at_a_power_of_a_half():
    """arXiv 2306.08645: for n Gaussian logits of variance v the entropy is log n - v / 2, so v has to grow as log n."""
    n, scale = 4096, 4
    kept = math.log(n) - attention_temperature(n, scale, 0.5) ** 2 * math.log(n / scale) * 0.3 / 2
    assert kept / math.log(n) == pytest.approx(1 - 0.3 / 2)
    assert attention_temperature(n, scale) == pytest.approx(math.log(4096) / math.log(1024))
    assert attention_temperature(n, 1) == attention_temperature(n, scale, 0) == attention_temperature(4, 4) == 1


def test_an_unknown_method_is_named():
    with pytest.raises(rk.RekernelError, match="method='linear' is not one of interpolate, ntk, yarn, dype"):
        rescaled_frequencies(TRAINED, 2, "linear")
