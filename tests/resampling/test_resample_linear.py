"""Fully-connected weights on a pixel grid, checked through the images they read or write."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

import rekernel as rk

METHODS = ["optimal", "cubic", "linear", "nearest", "area", "lanczos3"]


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("scale", [2, 3])
def test_nearest_reads_the_area_pooled_image(scale):
    w, x = weight(10, 3 * 4 * 5), weight(2, 3, 4 * scale, 5 * scale, seed=1)
    for gain in ("dc", "ratio"):  # on whole factors the scalar 1/s^2 is the exact gain
        w_new = rk.resample_linear(w, (3, 4, 5), (3, 4 * scale, 5 * scale), "nearest", gain=gain)
        pooled = F.avg_pool2d(torch.tensor(x), scale).numpy()
        np.testing.assert_allclose(x.reshape(2, -1) @ w_new.T, pooled.reshape(2, -1) @ w.T, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_torch_layer_answers_alike_on_the_image_enlarged_by_nearest(dtype):
    torch.manual_seed(0)
    small, x = torch.nn.Linear(3 * 6 * 6, 7, dtype=dtype), torch.randn(4, 3, 6, 6, dtype=dtype)
    large = torch.nn.Linear(3 * 12 * 12, 7, dtype=dtype)
    with torch.no_grad():
        large.weight.copy_(rk.resample_linear(small.weight, (3, 6, 6), (3, 12, 12), "nearest"))
        large.bias.copy_(small.bias)
        enlarged = F.interpolate(x, scale_factor=2, mode="nearest")
        torch.testing.assert_close(large(enlarged.flatten(1)), small(x.flatten(1)))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)), new=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    method=st.sampled_from(METHODS),
)  # fmt: skip
def test_every_channel_keeps_its_response_to_a_constant(grid, new, method):
    w = weight(3, 2 * grid[0] * grid[1])
    got = rk.resample_linear(w, (2, *grid), (2, *new), method)
    sums = [a.reshape(3, 2, -1).sum(-1) for a in (got, w)]
    np.testing.assert_allclose(*sums, atol=1e-9)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(n=st.integers(1, 6), m=st.integers(1, 12), method=st.sampled_from(METHODS))
def test_outputs_are_values_and_a_constant_output_stays(n, m, method):
    w = np.repeat(weight(2, 5), n * n, axis=0)  # both channels constant over the grid
    got = rk.resample_linear(w, (2, n, n), (2, m, m), method, side="out")
    np.testing.assert_allclose(got, np.repeat(weight(2, 5), m * m, axis=0), atol=1e-9)
    bias = rk.resample_linear(w[:, 0], (2, n, n), (2, m, m), method, side="out")
    np.testing.assert_allclose(bias, got[:, 0], atol=1e-12)


def test_output_images_are_resized_as_torch_resizes():
    w = weight(2 * 4 * 3, 5)
    got = rk.resample_linear(w, (2, 4, 3), (2, 9, 7), "linear", side="out")
    images = torch.tensor(w.T.reshape(5, 2, 4, 3).copy())
    expected = F.interpolate(images, (9, 7), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(got, expected.reshape(5, -1).numpy().T, atol=1e-12)


@pytest.mark.parametrize("side", ["in", "out"])
def test_channels_last_is_a_permutation(side):
    grid, new = (3, 4, 2), (3, 7, 5)
    cells, new_cells = np.arange(24).reshape(grid), np.arange(105).reshape(new)
    last, new_last = cells.transpose(1, 2, 0).ravel(), new_cells.transpose(1, 2, 0).ravel()
    w = weight(24, 24)
    expected = rk.resample_linear(w, grid, new, "cubic", side=side)
    moved = w[:, last] if side == "in" else w[last]
    got = rk.resample_linear(moved, grid, new, "cubic", side=side, order="channels-last")
    np.testing.assert_allclose(got, expected[:, new_last] if side == "in" else expected[new_last], atol=1e-12)


@pytest.mark.parametrize("side", ["in", "out"])
def test_layout_io_is_the_transpose(side):
    grid, new, w = (2, 3, 4), (2, 5, 8), weight(24, 24)
    expected = rk.resample_linear(w, grid, new, side=side)
    got = rk.resample_linear(np.ascontiguousarray(w.T), grid, new, side=side, layout="IO")
    np.testing.assert_allclose(got, expected.T, atol=1e-12)


@pytest.mark.parametrize(("grid", "new"), [((1, 6), (1, 9)), ((2, 2, 3, 4), (2, 4, 3, 6))])
def test_grids_of_one_and_three_dimensions(grid, new):
    w = weight(3, int(np.prod(grid)))
    operators = {i + 1: rk.grid_operator(n, m) for i, (n, m) in enumerate(zip(grid, new, strict=True)) if i}
    expected = rk.resample(w.reshape(3, *grid), operators).reshape(3, -1)
    np.testing.assert_allclose(rk.resample_linear(w, grid, new), expected, atol=1e-12)


def test_gain_can_be_overridden():
    w = weight(3, 16)
    none = rk.resample_linear(w, (1, 4, 4), (1, 8, 8), "cubic", gain="none")
    np.testing.assert_allclose(rk.resample_linear(w, (1, 4, 4), (1, 8, 8), "cubic", gain="ratio"), none / 4)
    np.testing.assert_allclose(rk.resample_linear(w.T, (1, 4, 4), (1, 8, 8), "cubic", side="out"), none.T)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 4, 4), (3, 8, 8)), r"an axis of 12 does not fit grid=\(3, 4, 4\), which has 48"),
        (((3, 2, 2), (4, 4, 4)), r"grid=\(3, 2, 2\) and new_grid=\(4, 4, 4\)"),
        (((3, 2, 2), (3, 4)), r"new_grid=\(3, 4\)"),
        (((12,), (24,)), r"grid=\(12,\)"),
        (((3, 2, 2), (3, 0, 4)), "n_new=0"),
    ],
)
def test_grids_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(rk.RekernelError, match=message):
        rk.resample_linear(weight(5, 12), *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "both"}, "side='both'"), ({"order": "CHW"}, "order='CHW'"), ({"layout": "NK"}, "layout='NK'"),
        ({"method": "dilate"}, "method='dilate'"), ({"gain": "unit"}, "gain='unit'"),
    ],
)  # fmt: skip
def test_options_outside_their_sets_are_named(options, message):
    with pytest.raises(rk.RekernelError, match=message):
        rk.resample_linear(weight(5, 12), (3, 2, 2), (3, 4, 4), **options)


def test_a_bias_has_no_input_side():
    with pytest.raises(rk.RekernelError, match=r"side='in' needs a \(out, in\) weight, not \(12,\)"):
        rk.resample_linear(weight(12), (3, 2, 2), (3, 4, 4))
    with pytest.raises(rk.RekernelError, match=r"or an \(out,\) bias, not \(12, 1, 1\)"):
        rk.resample_linear(weight(12, 1, 1), (3, 2, 2), (3, 4, 4), side="out")
