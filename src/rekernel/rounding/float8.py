"""Refuse numbers that a float8 cannot hold: libraries write NaN, an infinity or the largest number instead.

Scope: the range of each float8. Not here: casts (see `checkpoint.dtypes`, `resampling.casts`). ml_dtypes, which knows
the formats, is imported where one is asked for.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from ..errors import RekernelError


@cache
def most_in(dtype: str) -> tuple[float, float]:
    """The largest number of a float8, and the largest float32 that rounds to a number of this float8.

    The second lies half a spacing above the first. Exactly there, rounding to even decides.

    Parameters
    ----------
    dtype : its name in ml_dtypes, torch and JAX, such as 'float8_e4m3fn'

    Examples
    --------
    >>> most_in("float8_e4m3fn")
    (448.0, 464.0)
    """
    import ml_dtypes

    scalar = getattr(ml_dtypes, dtype)
    info: Any = ml_dtypes.finfo(scalar)  # type: ignore[no-untyped-call]
    largest = float(info.max)
    spacing = 2.0 ** math.floor(math.log2(largest)) * float(info.eps)
    half = np.float32(largest + spacing / 2)
    with np.errstate(over="ignore"):
        fits = math.isfinite(float(half.astype(scalar)))
    return largest, float(half if fits else np.nextafter(half, np.float32(0)))


def refuse_beyond(values: Any, dtype: str) -> None:
    """Raise if a finite value is beyond the range of a float8. Infinities and NaN pass: they come from the source.

    Parameters
    ----------
    values : array of any framework, of float32 or float64
    dtype : as for `most_in`

    Raises
    ------
    RekernelError
        It names the first value that does not fit.

    Examples
    --------
    >>> refuse_beyond(np.array([464.0, np.inf]), "float8_e4m3fn")
    >>> refuse_beyond(np.array([-500.0]), "float8_e4m3fn")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: value -500 is too large for float8_e4m3fn, whose maximum is 448; convert it to \
bfloat16 or float32 first
    """
    largest, most = most_in(dtype)
    size = abs(values)
    lost = (size > most) & (size < math.inf)
    if bool(lost.any()):
        raise RekernelError(
            f"value {float(values[lost][0]):.6g} is too large for {dtype}, whose maximum is {largest:g}; convert it to "
            f"bfloat16 or float32 first"
        )
