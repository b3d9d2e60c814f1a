"""Safetensors' dtype names and NumPy's, and casts between them that do not lose a value in silence.

Knows dtypes; no tensor names. ml_dtypes, which teaches NumPy bfloat16 and float8, is imported where needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError

_NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64",
}  # fmt: skip
_ML_DTYPES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}
FLOATS = ("F64", "F32", "F16", "BF16")
"""What `--dtype` may cast from; float8 is a quantisation with scales elsewhere and is left alone."""

_SPELLINGS = {
    "fp16": "F16", "float16": "F16", "half": "F16", "bf16": "BF16", "bfloat16": "BF16",
    "fp32": "F32", "float32": "F32", "float": "F32", "fp64": "F64", "float64": "F64", "double": "F64",
}  # fmt: skip


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a safetensors dtype, little-endian.

    Raises
    ------
    RekernelError
        Where NumPy has none (the sub-byte formats).

    Examples
    --------
    >>> numpy_dtype("F16").name, numpy_dtype("BF16").name
    ('float16', 'bfloat16')
    """
    if name in _NUMPY:
        return np.dtype("<" + np.dtype(_NUMPY[name]).str[1:])
    if name in _ML_DTYPES:
        import ml_dtypes

        scalar: type[Any] = getattr(ml_dtypes, _ML_DTYPES[name])
        return np.dtype(scalar)
    raise RekernelError(f"dtype {name} has no NumPy counterpart, so its values cannot be computed with")


def target_dtype(spelling: str) -> str:
    """The safetensors name of a float dtype a user may ask for.

    Examples
    --------
    >>> target_dtype("fp16"), target_dtype("BF16")
    ('F16', 'BF16')
    """
    name = _SPELLINGS.get(spelling.lower(), spelling.upper())
    if name not in FLOATS:
        raise RekernelError(f"dtype {spelling!r} is not one of {', '.join(FLOATS)} (or fp16, bfloat16, ...)")
    return name


def cast(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """`values` in another float dtype; a finite value that would become infinite is an error.

    Examples
    --------
    >>> cast(np.array([1.0, 2.0]), "F16").dtype.name
    'float16'
    """
    with np.errstate(over="ignore"):
        result = values.astype(numpy_dtype(dtype))
    if DTYPE_BITS[dtype] == 16 and dtype == "F16":  # the only target with a smaller range than its sources
        lost = ~np.isfinite(result) & np.isfinite(values)
        if lost.any():
            worst = values[lost].flat[0]
            raise RekernelError(f"value {float(worst):.6g} is beyond F16's 65504; cast to BF16 or F32 instead")
    return result


def refuse_overflow(result: NDArray[Any], wider: Callable[[], NDArray[Any]]) -> None:
    """Raise where float16 holds as infinite what `wider()`, the same values before they were rounded, has finite.

    Examples
    --------
    >>> refuse_overflow(np.array([np.inf], np.float16), lambda: np.array([np.inf], np.float32))
    """
    if result.dtype == np.float16 and not np.isfinite(result).all():
        cast(wider(), "F16")


# Bits per element. The order is the reference's order of alignment: files are laid out from the last to the first.
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
