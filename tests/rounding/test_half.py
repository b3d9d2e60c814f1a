"""Rounding to float16 gives the bits of NumPy's and torch's casts, for every kind of number and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rekernel.rounding.half import round_half


def rounded(values, out=None):
    out = np.full(values.shape, 7, np.float16) if out is None else out
    round_half(values.copy() if values.flags.c_contiguous else values, out)
    return out


def bits(values):
    """Bits of float16 values; every NaN alike."""
    return np.where(np.isnan(values), np.uint16(0x7E00), values.view(np.uint16))


def test_every_half_and_every_tie_and_its_neighbours():
    """All finite float16 numbers, what lies between two of them, and the float32 numbers on either side of that."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = np.append((halves[1:] + halves[:-1]) / 2, np.float32(65520))
    below, above = np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))
    for sign in (1, -1):
        assert (rounded(sign * halves).astype(np.float32) == sign * halves).all()
        # Below a tie the nearer number is the lower one; above it the next; on it the one with an even last bit.
        lower = np.arange(0x7C00, dtype=np.uint16)
        even = lower + (lower & 1)
        negative = np.uint16(0 if sign > 0 else 0x8000)
        for values, expected in ((below, lower), (ties, even), (above, lower + np.uint16(1))):
            assert (rounded(sign * values).view(np.uint16) == expected | negative).all()


def test_random_numbers_of_every_size():
    rng = np.random.default_rng(5)
    values = (rng.normal(size=300_000) * 10.0 ** rng.uniform(-12, 6, 300_000)).astype(np.float32)
    values[:8] = [0.0, -0.0, 2.0**-14, -(2.0**-14), np.nan, np.inf, -np.inf, np.float32(1e-45)]
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    assert np.isin(np.abs(expected[8:]), [0, np.inf], invert=True).mean() > 0.4
    assert (bits(rounded(values)) == bits(expected)).all()


@pytest.mark.parametrize("length", [0, 1, 32_767, 32_768, 32_769, 70_001])
def test_every_value_of_every_length_is_written(length):
    values = np.linspace(-3, 3, length, dtype=np.float32)
    assert (rounded(values) == torch.from_numpy(values).to(torch.float16).numpy()).all()


def test_an_infinite_block_leaves_the_others_alone():
    values = np.full(100_000, 1 / 3, np.float32)
    values[40_000] = np.inf
    got = rounded(values)
    assert np.isinf(got[40_000])
    assert (np.delete(got, 40_000) == np.float16(1 / 3)).all()


def test_memory_that_is_not_contiguous():
    values = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    out = np.zeros((60, 40), np.float16)
    rounded(values[:, ::2].T, out[::2, :30][:20])
    expected = values.astype(np.float16)[:, ::2].T
    assert (out[::2, :30][:20] == expected).all()
    out[::2, :30][:20] = 0
    assert not out.any()
