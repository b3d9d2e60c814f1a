"""Matched time and power: the table of docs/guidance.md, the closed forms, and the ends of each schedule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekernel import RekernelError
from rekernel.diffusion import (
    DiscreteSchedule,
    EDMSchedule,
    FlowSchedule,
    SigmaSchedule,
    VPSchedule,
    low_band_power,
    match,
    matched_time,
)

ALPHA_BAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
LOG_SNR = np.log(ALPHA_BAR / (1 - ALPHA_BAR))
SCHEDULES = [
    DiscreteSchedule(ALPHA_BAR), VPSchedule(), SigmaSchedule(), EDMSchedule(), FlowSchedule(),
    FlowSchedule(3.0, 1000.0),
]  # fmt: skip


@pytest.mark.parametrize(("factor", "expected"), [(2, [874, 631, 394, 204]), (4, [723, 428, 200, 77])])
def test_stable_diffusion_s_times(factor, expected):
    assert matched_time(LOG_SNR, [999, 800, 600, 400], factor).round().astype(int).tolist() == expected


def test_the_exponent_is_two():
    """The prototype's failure mode: a factor of m instead of m^2 gives times that look reasonable."""
    tau = matched_time(LOG_SNR, 600, 2)
    assert np.interp(tau, np.arange(1000), LOG_SNR) - LOG_SNR[600] == pytest.approx(2 * np.log(2))
    assert matched_time(LOG_SNR, 600, (2, 2)) == tau
    assert matched_time(LOG_SNR, 600, (4, 2, 2)) == pytest.approx(matched_time(LOG_SNR, 600, 4))


def test_steps_compose():
    twice = matched_time(LOG_SNR, matched_time(LOG_SNR, 900, 2), 2)
    assert twice == pytest.approx(matched_time(LOG_SNR, 900, 4), abs=1e-9)


def test_times_before_the_table_begins_are_its_first():
    assert matched_time(LOG_SNR, [0, 1, 5], 4).tolist() == [0, 0, 0]


@pytest.mark.parametrize("table", [[1.0], [0.0, 1.0], [[1.0, 0.0]]])
def test_tables_that_are_none_are_refused(table):
    with pytest.raises(RekernelError, match="decreasing"):
        matched_time(table, 0, 2)


@settings(max_examples=50, deadline=None)
@given(t=st.floats(0.01, 0.99), m=st.floats(1, 8))
def test_the_flow_s_closed_form(t, m):
    schedule = FlowSchedule()
    found = match(schedule, t, 1 / m)
    assert found.tau == pytest.approx(t / (t + m * (1 - t)))
    assert found.scale == pytest.approx(1 / ((1 - t) + t / m))
    shifted = FlowSchedule(shift=3.0, times=1000.0)
    assert match(shifted, 1000 * t, 1 / m).scale == pytest.approx(
        match(schedule, 3 * t / (1 + 2 * t), 1 / m).scale, rel=1e-9
    )


def test_the_flow_s_match_is_a_shift_of_one_over_m():
    t = np.linspace(0.1, 0.9, 9)
    shift = 1 / 2
    np.testing.assert_allclose(match(FlowSchedule(), t, 1 / 2).tau, shift * t / (1 + (shift - 1) * t))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("gain", [0.5, 0.25, 0.7])
def test_the_matched_input_is_one_of_the_matched_time(schedule, gain):
    """Scale times D x has the signal and the noise of the network's input at tau."""
    t = schedule.start + np.array([0.3, 0.6, 0.9]) * (schedule.end - schedule.start)
    m = match(schedule, t, gain)
    np.testing.assert_allclose(m.scale * m.alpha, m.low_alpha, rtol=1e-9)
    np.testing.assert_allclose(m.scale * m.sigma * gain, m.low_sigma, rtol=1e-9)
    at_tau = schedule.log_snr(m.tau)
    np.testing.assert_allclose(at_tau, schedule.log_snr(t) - 2 * np.log(gain), atol=1e-6)
    np.testing.assert_allclose(schedule.alpha(at_tau), m.low_alpha, rtol=1e-6)


def test_the_scale_is_one_over_the_root_of_the_power():
    schedule = DiscreteSchedule(ALPHA_BAR)
    m = match(schedule, np.arange(1, 1000), 1 / 3)
    np.testing.assert_allclose(m.scale, 1 / np.sqrt(low_band_power(ALPHA_BAR[1:], 3)), rtol=1e-9)


def test_pure_noise_has_a_finite_scale():
    """Zero terminal SNR: alpha is 0 at the last time, and the reduced noise is brought back to variance 1."""
    table = ALPHA_BAR.copy()
    table[-1] = 0.0
    for schedule, t in ((DiscreteSchedule(table), 999), (FlowSchedule(), 1.0)):
        m = match(schedule, t, 0.5)
        assert m.scale == pytest.approx(2.0, rel=1e-4)
        assert schedule.fraction(m.tau) > 0.99


def test_snapped_times_are_whole():
    schedule = DiscreteSchedule(ALPHA_BAR, snap=True)
    assert match(schedule, 600, 0.5).tau == 394
    assert match(DiscreteSchedule(ALPHA_BAR), 600, 0.5).tau != 394


def test_the_power_of_a_variance_exploding_process():
    assert low_band_power(1.0, 2, sigma_sq=100.0) == 26.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_times_and_log_snr_are_inverse(schedule):
    t = schedule.start + np.linspace(0.05, 0.95, 7) * (schedule.end - schedule.start)
    np.testing.assert_allclose(schedule.time(schedule.log_snr(t)), t, rtol=1e-6)
    assert np.all(np.diff(schedule.log_snr(t)) < 0)
    assert schedule.fraction(schedule.start) == pytest.approx(0)
    assert schedule.fraction(schedule.end) == pytest.approx(1)
