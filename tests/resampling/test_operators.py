"""What the one-dimensional matrices promise, against torch, SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.interpolate
import scipy.linalg
import scipy.ndimage
import scipy.signal
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

import rekernel as rk
from rekernel.resampling.methods import GRID_METHODS

INTERPOLATIONS = ("nearest", "linear", "cubic", "lanczos3", "area")
KERNEL = (*INTERPOLATIONS, "optimal")
GRID = (*INTERPOLATIONS, "optimal")

scales = st.floats(0.4, 5) | st.integers(1, 5) | st.sampled_from([0.5, 1.5, 2.5, 4 / 3, 1 / 3])
phases = st.sampled_from([0.0, 0.5, -0.25]) | st.floats(-0.5, 0.5)


def torch_matrix(n: int, n_new: int, mode: str, **options) -> np.ndarray:
    """torch's own resize of n pixels as a matrix: 1-D modes as they are, 2-D ones along the first image axis."""
    if mode.startswith("bi"):
        columns = torch.eye(n, dtype=torch.float64)[:, None, :, None].expand(n, 1, n, n)
        return F.interpolate(columns, size=(n_new, n), mode=mode, **options)[:, 0, :, 0].T.numpy()
    columns = torch.eye(n, dtype=torch.float64)[:, None]
    return F.interpolate(columns, size=n_new, mode=mode, **options)[:, 0].T.numpy()


# --- how many taps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "scale", "taps", "count"),
    [
        ("linear", 2, None, 7), ("cubic", 2, None, 11), ("cubic", 4, None, 23), ("optimal", 2, None, 5),
        ("optimal", 4, None, 9), ("cubic", 2, "same-extent", 5), ("optimal", 2, "full", 7), ("dilate", 3, None, 7),
        ("linear", 1.5, "same-extent", 5), ("linear", 2, 6, 6), ("lanczos3", 1, None, 3),
    ],
)  # fmt: skip
def test_number_of_taps(method, scale, taps, count):
    assert rk.kernel_taps(3, scale, method, taps) == count
    assert rk.kernel_operator(3, scale, method, taps=taps).shape == (count, 3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(k=st.sampled_from([1, 3, 5, 7]), scale=scales, phase=phases, method=st.sampled_from(KERNEL))
def test_odd_kernels_stay_odd(k, scale, phase, method):
    for taps in ("full", "same-extent"):
        assert rk.kernel_taps(k, scale, method, taps, phase) % 2 == 1


@settings(max_examples=50, deadline=None, derandomize=True)
@given(k=st.integers(1, 7), scale=scales, phase=phases, method=st.sampled_from(INTERPOLATIONS))
def test_full_support_leaves_no_value_out(k, scale, phase, method):
    full = rk.kernel_operator(k, scale, method, taps="full", phase=phase, gain="none")
    wider = rk.kernel_operator(k, scale, method, taps=len(full) + 2, phase=phase, gain="none")
    np.testing.assert_allclose(wider[1:-1], full, atol=1e-8)
    np.testing.assert_allclose(wider[[0, -1]], 0, atol=1e-8)


# --- gain ------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, derandomize=True)
@given(k=st.integers(1, 8), scale=scales, phase=phases, method=st.sampled_from(KERNEL))
def test_dc_gain_of_every_old_tap_is_one(k, scale, phase, method):
    R = rk.kernel_operator(k, scale, method, phase=phase)
    np.testing.assert_allclose(R.sum(axis=0), 1, atol=1e-12)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(n=st.integers(1, 20), m=st.integers(1, 40), method=st.sampled_from(GRID))
def test_grid_columns_sum_to_one_for_readers_and_rows_for_values(n, m, method):
    np.testing.assert_allclose(rk.grid_operator(n, m, method).sum(axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(rk.grid_operator(n, m, method, gain="none").sum(axis=1), 1, atol=1e-12)


def test_column_sums_of_the_scalar_coefficient():
    """The table of docs/mathematics.md, "DC gain": where dividing by the scale alone keeps the response to a constant.

    The bicubic figures are torch's, whose cubic has a = -3/4. Half-pixel centres (3->6) read a clamped edge there,
    which is a grid; a kernel is zero outside, and its 6 taps give .875, 1, .875 and .94, 1.04, .94 instead.
    """
    half_pixel = {"align_corners": False}
    np.testing.assert_allclose(torch_matrix(3, 6, "linear", **half_pixel).sum(0) / 2, [1, 1, 1])
    np.testing.assert_allclose(torch_matrix(3, 6, "bicubic", **half_pixel).sum(0) / 2, [0.98, 1.04, 0.98], atol=0.005)
    np.testing.assert_allclose(rk.grid_operator(3, 6, "linear", gain="ratio").sum(0), [1, 1, 1])
    keys = rk.grid_operator(3, 6, "cubic", gain="ratio", a=-0.75).sum(0)
    np.testing.assert_allclose(keys, [0.98, 1.04, 0.98], atol=0.005)
    zero = rk.kernel_operator(3, 2, "linear", taps=6, gain="ratio").sum(0)
    np.testing.assert_allclose(zero, [0.875, 1, 0.875])
    zero = rk.kernel_operator(3, 2, "cubic", taps=6, gain="ratio", a=-0.75).sum(0)
    np.testing.assert_allclose(zero, [0.94, 1.04, 0.94], atol=0.005)

    corners = {"align_corners": True}
    np.testing.assert_allclose(torch_matrix(3, 5, "linear", **corners).sum(0) / 2, [0.75, 1, 0.75])
    np.testing.assert_allclose(torch_matrix(3, 5, "bicubic", **corners).sum(0) / 2, [0.70, 1.09, 0.70], atol=0.005)

    np.testing.assert_allclose(rk.kernel_operator(3, 2, "linear", gain="ratio").sum(0), [1, 1, 1])
    np.testing.assert_allclose(rk.kernel_operator(3, 2, "cubic", gain="ratio").sum(0), [1, 1, 1])
    np.testing.assert_allclose(rk.kernel_operator(3, 2, "cubic", gain="ratio", a=-0.75).sum(0), [1, 1, 1])


def test_denser_sampling_grows_the_response_by_scale_per_axis_and_multiplying_again_is_wrong_by_its_square():
    n, s = 16, 3
    coarse, fine = (np.cos(2 * np.pi * np.arange(m) / m) for m in (n, n * s))
    assert np.abs(np.fft.fft(coarse)[1]) == pytest.approx(8)
    assert np.abs(np.fft.fft(fine)[1]) == pytest.approx(24)
    assert np.abs(np.fft.fft2(np.outer(coarse, coarse))[1, 1]) == pytest.approx(64)
    assert np.abs(np.fft.fft2(np.outer(fine, fine))[1, 1]) == pytest.approx(576)

    w = np.random.default_rng(0).uniform(1, 2, (3, 3))
    plain, ratio = (rk.kernel_operator(3, s, "cubic", gain=gain) for gain in ("none", "ratio"))
    constant = np.sum(w)
    assert np.sum(plain @ w @ plain.T) == pytest.approx(s**2 * constant)
    assert np.sum(ratio @ w @ ratio.T) == pytest.approx(constant)
    multiplied = s**2 * np.sum(plain @ w @ plain.T)
    assert multiplied == pytest.approx(s**4 * constant)


@pytest.mark.parametrize("gain", ["dc", "ratio", "none"])
@pytest.mark.parametrize("method", [*KERNEL, "dilate"])
def test_scale_one_changes_nothing(method, gain):
    for k in (1, 2, 3, 6):
        for taps in (None, "full", "same-extent", k):
            assert np.array_equal(rk.kernel_operator(k, 1.0, method, taps=taps, gain=gain), np.eye(k))
    if method != "dilate":
        assert np.array_equal(rk.grid_operator(5, 5, method, gain=gain), np.eye(5))


# --- what the interpolations reproduce -------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True)
@given(n=st.integers(9, 20), m=st.integers(20, 60))
def test_ramps_and_quadratics_are_reproduced_inside(n, m):
    at = (np.arange(m) + 0.5) * n / m - 0.5
    inside = (at >= 2) & (at <= n - 3)
    x = np.arange(n)
    for method, power in (("linear", 1), ("cubic", 1), ("cubic", 2)):
        got = rk.grid_operator(n, m, method, gain="none") @ (x.astype(float) ** power)
        np.testing.assert_allclose(got[inside], at[inside] ** power, atol=1e-9)
    torchs = rk.grid_operator(n, m, "cubic", gain="none", a=-0.75) @ (x.astype(float) ** 2)
    if m % n:  # Keys: only a = -1/2 reproduces quadratics
        assert np.abs(torchs - at**2)[inside].max() > 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("method", ["linear", "cubic", "lanczos3"])
def test_interpolation_is_dilation_then_smoothing(method, k, scale):
    h = {
        "linear": np.convolve(np.ones(scale), np.ones(scale)) / scale,
        "cubic": _catmull_rom(scale),
        "lanczos3": _lanczos(scale),
    }[method]
    w = np.random.default_rng(k).normal(size=k)
    dilated = np.zeros(scale * (k - 1) + 1)
    dilated[::scale] = w
    expected = scipy.signal.convolve(dilated, h)
    got = rk.kernel_operator(k, scale, method, taps=len(expected), gain="none") @ w
    np.testing.assert_allclose(got, expected, atol=1e-12)


def _catmull_rom(scale: int) -> np.ndarray:
    """Cubic Hermite interpolation of an impulse with central differences: Keys' cubic for a = -1/2."""
    y = np.zeros(9)
    y[4] = 1
    impulse = scipy.interpolate.CubicHermiteSpline(np.arange(9), y, np.gradient(y))
    return impulse(4 + np.arange(-2 * scale + 1, 2 * scale) / scale)


def _lanczos(scale: int) -> np.ndarray:
    x = np.arange(-3 * scale + 1, 3 * scale) / scale
    h = np.sinc(x) * np.sinc(x / 3)
    for r in range(scale):  # each interleaved grid must reproduce a constant
        h[r::scale] /= h[r::scale].sum()
    return h


# --- against torch, SciPy and the adjoint ----------------------------------------------------------------------------

GROWING = [
    ("nearest-exact", "nearest", {}), ("bilinear", "linear", {"align_corners": False}),
    ("linear", "linear", {"align_corners": False}), ("bicubic", "cubic", {"align_corners": False}),
]  # fmt: skip
SHRINKING = [("bilinear", "linear"), ("bicubic", "cubic")]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(n=st.integers(1, 24), m=st.integers(1, 60))
def test_grid_agrees_with_torch(n, m):
    if m >= n:
        for mode, method, options in GROWING:
            a = -0.75 if mode == "bicubic" else -0.5
            ours = rk.grid_operator(n, m, method, gain="none", a=a)
            np.testing.assert_allclose(ours, torch_matrix(n, m, mode, **options), atol=1e-12)
    else:
        for mode, method in SHRINKING:
            theirs = torch_matrix(n, m, mode, align_corners=False, antialias=True)
            np.testing.assert_allclose(rk.grid_operator(n, m, method, gain="none"), theirs, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(4, 8), (5, 15), (8, 4), (15, 5), (6, 1), (1, 6)])
def test_area_agrees_with_torch_at_whole_ratios(n, m):
    np.testing.assert_allclose(rk.grid_operator(n, m, "area", gain="none"), torch_matrix(n, m, "area"), atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (5, 15), (7, 11), (16, 40)])
def test_grid_agrees_with_scipy(n, m):
    theirs = [scipy.ndimage.zoom(row, m / n, order=1, grid_mode=True, mode="nearest") for row in np.eye(n)]
    np.testing.assert_allclose(rk.grid_operator(n, m, "linear", gain="none"), np.stack(theirs, 1), atol=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nearest_on_the_weight_is_area_pooling_of_the_image(scale):
    x = np.random.default_rng(scale).normal(size=6 * scale)
    pooled = F.avg_pool1d(torch.tensor(x)[None, None], scale)[0, 0].numpy()
    nearest = rk.grid_operator(6, 6 * scale, "nearest", gain="none")
    np.testing.assert_allclose(nearest.T @ x / scale, pooled, atol=1e-12)
    np.testing.assert_allclose(rk.grid_operator(6, 6 * scale, "nearest").T @ x, pooled, atol=1e-12)
    if scale % 2:  # at an even scale the edge between two old taps is itself a new tap, shared by both
        R = rk.kernel_operator(6, scale, "nearest", taps=6 * scale, gain="ratio")
        np.testing.assert_allclose(R.T @ x, pooled, atol=1e-12)
        assert len(rk.kernel_operator(5, scale, "nearest")) == 5 * scale


@settings(max_examples=50, deadline=None, derandomize=True)
@given(n=st.integers(1, 16), m=st.integers(1, 32), method=st.sampled_from(["nearest", "linear", "cubic"]))
def test_pseudo_inverse_keeps_responses_to_resized_inputs(n, m, method):
    B = rk.grid_operator(n, m, method, gain="none")
    P = rk.grid_operator(n, m, f"pinv-{method}")
    np.testing.assert_allclose(P, scipy.linalg.pinv(B.T), atol=1e-8)
    if m >= n:
        rng = np.random.default_rng(n)
        w, x = rng.normal(size=n), rng.normal(size=n)
        assert (P @ w) @ (B @ x) == pytest.approx(w @ x, abs=1e-8)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rk.kernel_operator(0, 2.0), "k=0 is not a kernel size"),
        (lambda: rk.kernel_operator(True, 2.0), "k=True"),
        (lambda: rk.kernel_operator(3.0, 2.0), r"k=3\.0"),
        (lambda: rk.kernel_operator(3, 0.0), r"scale=0\.0"),
        (lambda: rk.kernel_operator(3, float("nan")), "scale=nan"),
        (lambda: rk.kernel_operator(3, None), "scale=None"),
        (lambda: rk.kernel_operator(3, 2.0, phase=float("inf")), "phase=inf"),
        (lambda: rk.kernel_operator(3, 2.0, "sinc"), "method='sinc'"),
        (lambda: rk.kernel_operator(3, 2.0, "pinv-linear"), "method='pinv-linear'"),
        (lambda: rk.kernel_operator(3, 2.0, taps=0), "taps=0"),
        (lambda: rk.kernel_operator(3, 2.0, taps="half"), "taps='half'"),
        (lambda: rk.kernel_operator(3, 2.0, taps=True), "taps=True"),
        (lambda: rk.kernel_operator(3, 2.0, gain="unit"), "gain='unit'"),
        (lambda: rk.kernel_operator(3, 2.0, smoothness=1.0), r"smoothness=1\.0"),
        (lambda: rk.kernel_operator(3, 2.0, smoothness=float("nan")), "smoothness=nan"),
        (lambda: rk.kernel_operator(3, 1.5, "dilate"), r"method='dilate' cannot move 3 taps to -1\.5, 0, 1\.5 on"),
        (lambda: rk.kernel_operator(3, 2.0, "dilate", phase=0.5), "method='dilate'"),
        (lambda: rk.kernel_operator(5, 2.0, "linear", taps=3), r"k=5, scale=2, .*taps=3.*gain='dc' cannot"),
        (lambda: rk.grid_operator(0, 4), "n=0 is not a grid size"),
        (lambda: rk.grid_operator(4, -1), "n_new=-1 is not a grid size"),
        (lambda: rk.grid_operator(4, 8, "dilate"), "method='dilate'"),
        (lambda: rk.grid_operator(4, 8, gain=""), "gain=''"),
    ],
)
def test_errors_name_the_argument_and_its_value(call, message):
    with pytest.raises(rk.RekernelError, match=message):
        call()


def test_whole_numbers_may_be_numpys():
    R = rk.kernel_operator(np.int64(3), np.float32(2), "linear", taps=np.int64(7))
    assert np.array_equal(R, rk.kernel_operator(3, 2.0, "linear"))
    assert rk.grid_operator(np.int64(4), np.int32(8)).shape == (8, 4)


@pytest.mark.parametrize(("name", "same"), [("bilinear", "linear"), ("trilinear", "linear"), ("bicubic", "cubic")])
def test_aliases(name, same):
    assert np.array_equal(rk.kernel_operator(3, 2.0, name), rk.kernel_operator(3, 2.0, same))
    assert np.array_equal(rk.grid_operator(4, 7, name), rk.grid_operator(4, 7, same))
    assert name not in GRID_METHODS
