"""What the least-squares design promises: its minimum, its limit on the response, and its ends."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

import rekernel as rk

LIMIT = 1.05

counts = st.integers(1, 64)
scales = st.sampled_from([1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 8.0, 0.5, 0.75]) | st.floats(0.4, 5)
phases = st.sampled_from([0.0, 0.25, 0.5, -0.25])
smoothnesses = st.sampled_from([0.01, 0.01, 0.0, 0.001, 0.02, 0.1, 0.5, 0.9])


def loudest(R: np.ndarray) -> float:
    """Largest gain of any column, at more than 100 frequencies per tap that are not the design's own."""
    points = 101 * max(len(R), 64)
    return max(float(np.abs(np.fft.rfft(column, points)).max()) for column in R.T)


def response(R: np.ndarray, scale: float, phase: float, f: np.ndarray) -> np.ndarray:
    """Frequency response of every column at f cycles per old sample, times the delay that puts its old tap at 0."""
    k, taps = R.shape[1], len(R)
    lead = (np.arange(k) - (k - 1) / 2) * scale + (taps - 1) / 2 - phase  # where the old tap lies, in new taps
    columns = [scipy.signal.freqz(c, worN=2 * np.pi * f / scale)[1] for c in R.T]
    return np.stack([h * np.exp(2j * np.pi * f / scale * d) for h, d in zip(columns, lead, strict=True)], axis=1)


def rms(R: np.ndarray, scale: float, band: tuple[float, float], wanted: float, phase: float = 0.0) -> np.ndarray:
    error = response(R, scale, phase, np.linspace(*band, 400)) - wanted
    return np.sqrt(np.mean(np.abs(error) ** 2, axis=0))


def pass_error(R: np.ndarray, scale: float, phase: float = 0.0) -> np.ndarray:
    return rms(R, scale, (0, 0.25), 1.0, phase)


# --- the limit -------------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None, derandomize=True)
@given(k=counts, scale=scales, phase=phases, smoothness=smoothnesses, taps=st.sampled_from(["full", "same-extent", 9]))
def test_no_column_exceeds_the_limit_at_any_frequency_and_all_sum_to_one(k, scale, phase, smoothness, taps):
    taps = 2 * k + taps if isinstance(taps, int) else taps
    R = rk.kernel_operator(k, scale, phase=phase, taps=taps, smoothness=smoothness)
    assert loudest(R) <= LIMIT
    np.testing.assert_allclose(R.sum(axis=0), 1, atol=1e-12)


def test_more_taps_than_any_method_needs_are_refused_before_they_are_designed():
    assert rk.kernel_operator(3, 2, taps=73).shape == (73, 3)
    for method in ("optimal", "cubic", "area"):
        with pytest.raises(rk.RekernelError, match="taps=4096 for k=3, scale=2: no method needs more than 73 taps"):
            rk.kernel_operator(3, 2, method, taps=4096)


@pytest.mark.parametrize("scale", [1.5, 2, 3])
def test_the_limit_holds_for_every_kernel_up_to_64_taps(scale):
    for k in range(1, 65):
        for taps in ("same-extent", "full"):
            assert loudest(rk.kernel_operator(k, scale, taps=taps)) <= LIMIT, (k, taps)


def test_the_limit_holds_for_512_taps():
    R = rk.kernel_operator(512, 2.0)
    assert R.shape == (1023, 512)
    assert loudest(R) <= LIMIT
    np.testing.assert_allclose(R.sum(axis=0), 1, atol=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(1, 24), m=st.integers(1, 60), smoothness=smoothnesses)
def test_the_limit_holds_on_grids(n, m, smoothness):
    assert loudest(rk.grid_operator(n, m, smoothness=smoothness)) <= LIMIT


@settings(max_examples=60, deadline=None, derandomize=True)
@given(k=st.integers(1, 7), scale=st.integers(2, 16), phase=phases, smoothness=smoothnesses, longer=st.integers(1, 60))
def test_the_limit_holds_for_the_filter(k, scale, phase, smoothness, longer):
    """It has no constraint: a filter has room on both sides."""
    for taps in ("full", scale * (k - 1) + longer):
        R = rk.kernel_operator(k, float(scale), "optimal-filter", taps=taps, phase=phase, smoothness=smoothness)
        assert loudest(R) <= LIMIT


@pytest.mark.parametrize(("scale", "taps", "phase"), [(2, 5, 0.0), (2, 5, 0.5), (3, 7, 0.0), (3, 7, 0.25), (4, 9, 0.0)])
def test_a_limited_column_is_the_best_within_the_limit(scale, taps, phase):
    """Against SciPy's sequential quadratic programming, with the limit at 200 frequencies."""
    smoothness = 0.02
    R = rk.kernel_operator(3, scale, taps=taps, phase=phase, smoothness=smoothness)
    f = np.linspace(0, 0.5, 200)
    waves = np.exp(-2j * np.pi * f[:, None] * np.arange(taps))
    quadratic = [objective_matrix(taps, u, scale, phase, smoothness / 2) for u in (-1, 0, 1)]
    limited = [j for j in range(3) if np.abs(waves @ R[:, j]).max() > 1.04]
    assert limited
    for j in limited:
        gram, linear = quadratic[j]

        def objective(x, gram=gram, linear=linear):
            return 1e3 * (x @ gram @ x - 2 * linear @ x)

        def best(limit, objective=objective, start=R[:, j]):
            found = scipy.optimize.minimize(
                objective,
                np.eye(taps)[np.abs(start).argmax()],
                method="SLSQP",
                constraints=[
                    {"type": "eq", "fun": lambda x: x.sum() - 1},
                    {"type": "ineq", "fun": lambda x: limit**2 - np.abs(waves @ x) ** 2},
                ],
                options={"maxiter": 500, "ftol": 1e-10},
            )
            assert found.success
            return found.fun, found.x

        # The cuts stop between these two limits.
        (least, near), (most, _) = best(1.049), best(1.048)
        assert least - 1e-4 <= objective(R[:, j]) <= most + 1e-4
        assert most - least < 0.05 * abs(objective(np.eye(taps)[np.abs(near).argmax()]) - least)
        np.testing.assert_allclose(R[:, j], near, atol=0.02)


# --- the minimum -----------------------------------------------------------------------------------------------------


def objective_matrix(taps: int, u: float, scale: float, phase: float, smoothness: float) -> tuple[np.ndarray, ...]:
    """x' G x - 2 c' x + constant, which `optimal` minimises, by Gauss-Legendre quadrature over its three bands."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    lead = np.arange(taps) - (taps - 1) / 2 + phase - scale * u
    gram, linear = np.zeros((taps, taps)), np.zeros(taps)
    for low, high, share in ((0, 0.3, 1 - smoothness), (0.3, 0.7, 0.03 * smoothness), (0.7, scale / 2, smoothness)):
        f = ((low + high) / 2 + (high - low) / 2 * nodes)[:, None] / scale
        w = share * (high - low) / 2 / scale * weights
        wanted = np.clip(0.5 + 0.5 * np.cos(np.pi * (f[:, 0] * scale - 0.3) / 0.4), 0, 1) if low == 0.3 else low == 0
        waves = np.exp(-2j * np.pi * f * lead)
        gram += np.real(waves.conj().T @ (w[:, None] * waves))
        linear += np.real(waves).T @ (w * wanted)
    return gram, linear


@pytest.mark.parametrize(
    ("scale", "taps", "phase"), [(2, 6, 0.0), (2, 7, 0.0), (2, 9, 0.25), (3, 11, 0.0), (4, 15, 0.5)]
)
def test_optimal_is_the_minimum_of_its_objective_where_the_limit_is_kept(scale, taps, phase):
    """The gradient of the objective is the same for every tap: the multiplier of the DC gain."""
    smoothness = 0.02
    R = rk.kernel_operator(3, scale, taps=taps, phase=phase, smoothness=smoothness)
    assert loudest(R) < 1.04
    for j, u in enumerate((-1, 0, 1)):
        gram, linear = objective_matrix(taps, u, scale, phase, smoothness)
        gradient = gram @ R[:, j] - linear
        np.testing.assert_allclose(gradient, gradient.mean(), atol=3e-6)
        assert np.abs(gram @ np.roll(R[:, j], 1) - linear).max() > 1e-3


@pytest.mark.parametrize(("scale", "taps"), [(2, 5), (2, 7), (3, 7), (4, 9), (4, 13)])
def test_optimal_beats_every_interpolation_cut_to_as_many_taps(scale, taps):
    best = pass_error(rk.kernel_operator(3, scale, "optimal", taps=taps), scale)
    for method in ("linear", "cubic", "lanczos3"):
        cut = pass_error(rk.kernel_operator(3, scale, method, taps=taps), scale)
        assert (best < cut).all()
        assert best.max() < 0.5 * cut.max()


def test_optimal_figures_of_the_design():
    """0.1.0 had .0284, .0129, .0460 and .0076 here."""
    for scale, taps, most in ((2, 5, 0.0195), (2, 7, 0.0133), (4, 9, 0.0450), (4, "full", 0.0080)):
        assert pass_error(rk.kernel_operator(3, scale, taps=taps), scale).max() <= most
    assert rms(rk.kernel_operator(3, 2, taps=7), 2, (0.75, 1), 0.0).max() <= 0.08
    full_cubic = rk.kernel_operator(3, 2, "cubic")
    assert pass_error(full_cubic, 2).max() == pytest.approx(0.020, abs=0.001)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_middle_taps_of_long_kernels_are_not_damped_in_the_trained_band(scale):
    f = np.array([0.1, 0.3, 0.35, 0.4, 0.5])
    for k in (5, 9, 16, 33, 64, 128):
        R = rk.kernel_operator(k, scale)
        inner = np.abs(response(R, scale, 0.0, f))[:, k // 4 : k - k // 4]
        assert (inner >= np.array([0.98, 0.97, 0.93, 0.82, 0.48])[:, None]).all(), k
        images = rms(R, scale, (0.75, scale / 2), 0.0)[k // 4 : k - k // 4]
        if k >= 16:
            assert images.max() < 0.06


def test_kernels_and_their_mirror_images_agree():
    for k, scale, taps in ((3, 2, 5), (7, 3, None), (64, 2, None)):
        R = rk.kernel_operator(k, scale, taps=taps)
        np.testing.assert_allclose(R[::-1, ::-1], R, atol=1e-9)
    np.testing.assert_allclose(
        rk.kernel_operator(5, 2, phase=0.25)[::-1, ::-1], rk.kernel_operator(5, 2, phase=-0.25), atol=1e-9
    )


# --- the ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "scale"), [(3, 2), (3, 4), (7, 3), (64, 2)])
def test_optimal_without_smoothness_is_dilation(k, scale):
    dilated = rk.kernel_operator(k, scale, "dilate")
    distance = [np.abs(rk.kernel_operator(k, scale, smoothness=s) - dilated).max() for s in (0.02, 1e-3, 1e-5, 0.0)]
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 1e-9


@pytest.mark.parametrize(("scale", "taps", "phase"), [(2, 9, 0.0), (3, 12, 0.25), (1.5, 7, 0.0)])
def test_a_single_tap_is_the_filter(scale, taps, phase):
    """The factored form takes its blur from here, also for recipes that 0.1.0 wrote."""
    options = {"taps": taps, "phase": phase}
    np.testing.assert_array_equal(
        rk.kernel_operator(1, scale, "optimal", **options), rk.kernel_operator(1, scale, "optimal-filter", **options)
    )


def test_the_filter_is_that_of_version_0_1_0():
    half = [0.024459241724526348, -0.056773423000235614, -0.04014555087710276, 0.29866647849195027, 0.5475865073217312]
    R = rk.kernel_operator(3, 2, "optimal-filter")
    assert R.shape == (13, 3)
    np.testing.assert_allclose(R[:9, 0], [*half, *half[-2::-1]], rtol=1e-9)
    skewed = [
        0.012844246924191583, -0.03301305084006415, -0.04543805473111577, 0.050238608283356544, 0.23298189398511226,
        0.36734237689317617, 0.3325546970266114, 0.15646421796309143, -0.01288671422608134, -0.06483384537945967,
        -0.021640358268278117, 0.02538598236945981,
    ]  # fmt: skip
    np.testing.assert_allclose(rk.kernel_operator(1, 3, taps=12, phase=0.25)[:, 0], skewed, rtol=1e-9)


def test_a_target_far_outside_its_taps_has_the_taps_of_the_nearest():
    R = rk.kernel_operator(9, 2.0, taps=3)
    assert loudest(R) <= LIMIT
    np.testing.assert_allclose(R.sum(axis=0), 1, atol=1e-12)


@pytest.mark.parametrize(("k", "scale"), [(11, 1.25), (11, 1.05), (7, 1.4)])
def test_optimal_taps_stay_bounded_between_the_scales(k, scale):
    assert np.abs(rk.kernel_operator(k, scale, phase=0.25)).max() < 1.2


@pytest.mark.parametrize(("n", "m"), [(8, 16), (9, 14), (12, 30), (14, 7)])
def test_a_grid_column_depends_on_its_own_place_alone(n, m):
    """Columns that share one factorisation are those of a grid of their own; the image is symmetric."""
    G = rk.grid_operator(n, m)
    np.testing.assert_allclose(G[::-1, ::-1], G, atol=1e-9)
    if m % n == 0:
        step = m // n
        for j in range(2, n - 3):
            np.testing.assert_allclose(np.roll(G[:, j], step), G[:, j + 1], atol=1e-12)
