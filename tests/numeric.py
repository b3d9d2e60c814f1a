"""How equal two results have to be: to the bit where that is promised, else in units in the last place.

Promised to the bit, by every engine and on every processor: copies, `dilate`, and `nearest` by a power of two where
every new value is one old value times a power of two. Everything else is a sum of products. Another BLAS, processor or
shape of blocks may add it up in another order, so its last place may differ.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray


def assert_bits(found: Any, expected: Any, what: str = "") -> None:
    """Same shape, dtype and bytes; a zero's sign and the bits of a NaN count."""
    a, b = _array(found), _array(expected)
    assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{what}: {a.dtype}{a.shape}, not {b.dtype}{b.shape}"
    if a.tobytes() != b.tobytes():
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        apart = ~((wide_a == wide_b) & (np.signbit(wide_a) == np.signbit(wide_b)))
        raise AssertionError(f"{what}: {int(apart.sum())} of {a.size} values differ, first {_first(a, b, apart)}")


def assert_ulps(found: Any, expected: Any, ulps: float = 8, what: str = "") -> None:
    """Same shape and dtype, and values that differ by a rounding of their own and `ulps` units of their sum.

    The rounding is one unit in the last place of the dtype, at the value itself: two numbers that are nearly equal may
    be rounded to neighbours. The units of the sum are those of the accumulator (float64 for float64, else float32), at
    the largest value of the tensor: where large products cancel, the little that is left has their error, not its own.
    """
    a, b = _array(found), _array(expected)
    assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{what}: {a.dtype}{a.shape}, not {b.dtype}{b.shape}"
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide_b)
    assert np.array_equal(wide_a[~finite], wide_b[~finite], equal_nan=True), f"{what}: infinities or NaN differ"
    largest = float(np.abs(wide_b[finite]).max(initial=0))
    allowed = unit(b.dtype, wide_b) + ulps * unit(_accumulator(b.dtype), np.float64(largest))
    apart = finite & ~(np.abs(wide_a - wide_b) <= np.where(finite, allowed, np.inf))
    assert not apart.any(), f"{what}: {int(apart.sum())} of {a.size} values differ, first {_first(a, b, apart)}"


def unit(dtype: Any, at: Any) -> NDArray[np.float64]:
    """One unit in the last place of `dtype` at each of the values; 1 for whole numbers."""
    if np.issubdtype(dtype, np.integer):
        return np.ones(np.shape(at))
    info = ml_dtypes.finfo(dtype)
    exponent = np.frexp(np.abs(at))[1] - 1  # 2^exponent <= |x| < 2^(exponent + 1)
    smallest = np.frexp(float(info.smallest_normal))[1] - 1
    return np.ldexp(float(info.eps), np.maximum(exponent, smallest))


def _accumulator(dtype: Any) -> Any:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _array(x: Any) -> NDArray[Any]:
    """A tensor of PyTorch as an array of the same dtype, which NumPy itself lacks for bfloat16 and float8."""
    if type(x).__module__.partition(".")[0] != "torch" and not hasattr(x, "detach"):
        return np.asarray(x)
    import torch

    x = x.detach().cpu().contiguous()
    name = str(x.dtype).rpartition(".")[2]
    if not hasattr(ml_dtypes, name):
        return np.asarray(x.numpy())
    return np.asarray(x.reshape(-1).view(torch.uint8).numpy().view(getattr(ml_dtypes, name)).reshape(tuple(x.shape)))


def _first(a: NDArray[Any], b: NDArray[Any], apart: NDArray[np.bool_]) -> str:
    at = tuple(int(i) for i in np.argwhere(apart)[0]) if apart.any() else ()
    return f"at {at}: {a[at]!r}, not {b[at]!r}"
