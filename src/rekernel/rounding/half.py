"""Round float32 values to float16 by a dozen of NumPy's fast operations on a whole block.

NumPy's own cast converts one number at a time, and raises a floating-point flag for each inexact subnormal number, of
which rescaled weights have many. torch rounds in hardware, but its import takes a second and most of the memory of a
conversion (benchmarks/speed/rounding.py has the times).
Scope: the rounding. Not here: which values are rounded (see `resampling.casts`, `checkpoint.dtypes`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scratch import Scratch

BLOCK = 1 << 17
"""Values that are rounded at once. Threads hand over the interpreter's lock at every operation: smaller blocks, which
would fit a smaller cache, make several threads slower than one."""
_SIGN, _MAGNITUDE, _EXPONENT = 0x8000, 0x7FFFFFFF, 0x7F800000
_OVERFLOW = 0x477FF000  # bits of 65520, the least float32 that rounds to infinity
_LEAST = 113 << 23  # bits of 2^-14, below which the spacing of float16 stays 2^-24
_MEMORY = Scratch()
_LIFT = np.int32((13 << 23) + (1 << 22) - (113 << 10))


def round_half(values: NDArray[np.float32], out: NDArray[np.float16]) -> None:
    """Round to the nearest float16, ties to even, as IEEE 754 says. The bits are those of NumPy's cast.

    A float32 that is 2^13 times as large as a value has the value's float16 spacing as its last place. So adding such a
    number rounds the value in hardware, and the last 11 bits of the sum hold the significand. The number also carries
    the float16 exponent in the bits above, so that the last 16 bits of the sum are the result, but for its sign.

    Parameters
    ----------
    values : float32 array of any shape
    out : float16 array of the same shape
        Values from 65520 on become infinite there.

    Examples
    --------
    >>> out = np.empty(3, np.float16)
    >>> round_half(np.array([1 / 3, -(2.0**-25), 65520], np.float32), out)
    >>> out
    array([ 0.3333, -0.    ,     inf], dtype=float16)
    """
    if not (values.flags.c_contiguous and out.flags.c_contiguous):
        whole = np.empty(values.shape, np.float16)
        round_half(np.ascontiguousarray(values), whole)
        out[...] = whole
        return
    flat, result = values.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        _round_block(flat[start : start + BLOCK], result[start : start + BLOCK])


def _round_block(values: NDArray[np.float32], out: NDArray[np.float16]) -> None:
    n, bits, result = values.size, values.view(np.int32), out.view(np.uint16)
    magnitude, lift, last = (_MEMORY.array(name, n, np.int32) for name in ("magnitude", "lift", "last"))
    sign = _MEMORY.array("sign", n, np.uint16)
    # An array and not a number: NumPy's loop for a number is three times as slow.
    least = _MEMORY.array("least", n, np.int32, fill=_LEAST)
    np.bitwise_and(bits, _MAGNITUDE, out=magnitude)
    if magnitude.max() >= _OVERFLOW:
        with np.errstate(over="ignore"):
            out[...] = values
        return
    np.bitwise_and(magnitude, _EXPONENT, out=lift)
    np.maximum(lift, least, out=lift)
    np.right_shift(lift, 13, out=last)
    lift += last
    lift += _LIFT
    np.add(magnitude.view(np.float32), lift.view(np.float32), out=last.view(np.float32))
    np.copyto(result, last, casting="unsafe")
    np.right_shift(bits, 16, out=last)
    np.copyto(sign, last, casting="unsafe")
    sign &= _SIGN
    result |= sign
