"""Defaults, limits and rules of the pure library at their edges, where one more or one less makes the difference."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest

from rekernel.errors import RekernelError
from rekernel.resampling.arrays import resample
from rekernel.resampling.filters import interpolation_filter
from rekernel.resampling.full_precision import _by_backend
from rekernel.resampling.geometry import ConvGeometry, conv_geometry, output_size, pool_geometry
from rekernel.resampling.methods import canonical_method
from rekernel.resampling.operators import grid_operator, kernel_operator, kernel_taps
from rekernel.resampling.response_limit import peaks, two_nearest


def test_a_layer_without_arguments_has_stride_1_and_keeps_its_scale():
    assert output_size(8, 3) == 6
    assert pool_geometry(2, "avg") == ConvGeometry(2, 2, (0, 0), 1, 0.0)


@pytest.mark.parametrize(("padding", "size"), [((5, 5), 30), ((3, 1), 36), ((0, 0), 40)])
def test_without_a_size_a_window_larger_than_eight_steps_gets_the_smallest_image_that_it_fits(padding, size):
    """Its geometry is that for this size; a smaller image has no output at all."""
    options = {"stride": 2, "padding": padding, "scale_in": 2.0, "scale_out": 2.0}
    assert pool_geometry(40, "avg", **options) == pool_geometry(40, "avg", **options, size=size)
    with pytest.raises(RekernelError, match=f"has no output on {size - 2} pixels"):
        pool_geometry(40, "avg", **options, size=size - 2)
    # The right padding depends on the size, so that of a larger image would show.
    assert pool_geometry(40, "avg", **options) != pool_geometry(40, "avg", **options, size=size + 1)


def test_without_a_size_a_layer_gets_eight_steps_and_more_only_where_its_kernel_needs_more():
    """Where a scale is not whole, the size decides how the right padding is rounded."""
    options = {"padding": 1, "method": "linear", "scale_in": 1.25}
    found = conv_geometry(8, **options)
    assert found == conv_geometry(8, **options, size=8) != conv_geometry(8, **options, size=10)


@pytest.mark.parametrize(
    ("method", "options", "phase"),
    [
        ("optimal", {"scale_in": 1.25, "offset": 0.1}, 0.1),  # no phase that moves a tap out of the kernel
        ("linear", {"scale_in": 0.5, "offset": 0.25}, 0.25),  # only `optimal` is designed for the taps that it has
    ],
)
def test_one_tap_more_is_for_a_phase_that_so_many_taps_cannot_hold(method, options, phase):
    found = conv_geometry(1, method=method, **options)
    assert (found.taps, found.phase) == (1, pytest.approx(phase))


def test_so_many_taps_and_not_one_more():
    assert kernel_taps(1365, 3.0, "linear", 4096) == 4096
    with pytest.raises(RekernelError, match="ask for 4097 taps; 4096 is the limit"):
        kernel_taps(1365, 3.0, "linear", 4097)


def test_what_is_not_the_name_of_a_method_is_quoted_to_80_characters():
    with pytest.raises(RekernelError) as caught:
        canonical_method([0] * 100)  # type: ignore[arg-type]
    assert len(str(caught.value).split("'")[1]) == 80


@pytest.mark.parametrize("before", ["tf32", "bf16", "ieee", "none"])
def test_the_precision_of_a_backend_is_full_inside_and_as_before_outside(before):
    settings = SimpleNamespace(fp32_precision=before)
    with ExitStack() as stack:
        _by_backend(settings, stack)
        assert settings.fp32_precision == ("none" if before == "none" else "ieee")
    assert settings.fp32_precision == before


def test_a_filter_and_a_geometry_do_not_change():
    for value, name in ((interpolation_filter("cubic", 2.0), "radius"), (output := pool_geometry(2, "max"), "taps")):
        with pytest.raises(AttributeError):
            setattr(value, name, 0)
    assert output == pool_geometry(2, "max")


@pytest.mark.parametrize("method", ["linear", "cubic", "lanczos3"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_full_taps_end_where_the_filter_is_zero(method, k):
    """The outer taps have weight, and taps beyond would have none; for scales whose taps end within rounding too."""
    scales = [(q + extra, q) for q in range(3, 8) for extra in range(1, 12 - q)]
    for (p, q), shifted in itertools.product(scales, (False, True)):
        phase = shifted / q
        matrix = kernel_operator(k, p / q, method, taps="full", phase=phase)
        beyond = kernel_operator(k, p / q, method, taps=len(matrix) + 2, phase=phase)
        first, last = (np.abs(matrix[row]).max() for row in (0, -1))
        assert (max if shifted else min)(first, last) > 1e-9, (p, q, phase)
        assert max(np.abs(beyond[row]).max() for row in (0, -1)) < 1e-9, (p, q, phase)


@pytest.mark.parametrize("method", ["optimal", "linear", "cubic"])
def test_at_scale_1_more_taps_are_zeros_around_the_same_kernel(method):
    assert np.array_equal(kernel_operator(3, 1.0, method, taps=5), np.pad(np.eye(3), ((1, 1), (0, 0))))
    assert np.array_equal(kernel_operator(3, 1.0, method, taps=9), np.pad(np.eye(3), ((3, 3), (0, 0))))
    assert not np.array_equal(kernel_operator(3, 1.0, method, taps=4)[:3], np.eye(3))  # between the old taps


def test_an_optimal_grid_that_shrinks_uses_as_many_new_pixels_as_one_that_keeps_its_size():
    """Fewer would leave the design no room: the reach is counted in new pixels, and grows only with the scale."""
    matrix = grid_operator(16, 8, "optimal")
    assert (np.abs(matrix) > 1e-9).sum(axis=0).max() == (np.abs(grid_operator(17, 16, "optimal")) > 1e-9).sum(
        axis=0
    ).max()


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_means_of_two_are_taken_one_axis_after_the_other_so_every_engine_gives_the_same_bits(framework):
    """A sum of two terms is the same in any order; the four of a product of both axes are not."""
    w = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    matrix = kernel_operator(3, 2.0, "nearest").astype(np.float32)

    def along(x, axis):
        x = np.moveaxis(x, axis, -1)
        rows = [sum((c * x[..., i] for i, c in enumerate(row) if c), np.float32(0)) for row in matrix]
        return np.moveaxis(np.stack(rows, -1), -1, axis)

    given = pytest.importorskip("torch").from_numpy(w) if framework == "torch" else w
    found = np.asarray(resample(given, {2: kernel_operator(3, 2.0, "nearest"), 3: kernel_operator(3, 2.0, "nearest")}))
    assert np.array_equal(found, along(along(w, 2), 3))


def test_the_peak_of_every_column_is_found_however_many_there_are():
    columns = np.tile([[0.5], [0.5]], 20_000)
    columns[:, -1] = 1.0, -0.5
    assert peaks(columns)[[0, -1]] == pytest.approx([1.0, 1.5]) and len(peaks(columns)) == 20_000


def test_a_target_that_is_whole_up_to_rounding_is_whole():
    assert two_nearest(5, np.array([1 + 1e-12, 3 - 1e-12])).T.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert np.count_nonzero(two_nearest(5, np.array([1 + 1e-6]))) == 2
