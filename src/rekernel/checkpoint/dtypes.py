"""List the dtypes of safetensors, and cast between them; a cast that would overflow is an error.

Scope: names and bits. Not here: tensors (see `checkpoint.tensor_source`). ml_dtypes, which adds bfloat16 and float8 to
NumPy, is imported only if needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from ..messages.arguments import short
from ..rounding.float8 import refuse_beyond
from ..rounding.half import round_half


@dataclass(frozen=True)
class DType:
    """One dtype of the format, under the name that each library gives it.

    name : name that safetensors writes
    bits : bits of one element
    numpy, torch, onnx : name in that library; empty if the library has no such dtype, or stores it in other bytes
    taught : whether NumPy knows the dtype only after ml_dtypes was imported
    computed : 'float' if weights of this dtype are resampled, 'rounded' if that needs a cast that rounds, empty if such
        tensors are always kept
    """

    name: str
    bits: int
    numpy: str = ""
    torch: str = ""
    onnx: str = ""
    taught: bool = False
    computed: str = ""


# In the order of alignment of the reference implementation, which lays files out from the last dtype to the first.
TABLE = (
    DType("BOOL", 8, "bool", "bool", "BOOL"),
    DType("F4", 4, onnx="FLOAT4E2M1"),
    DType("F6_E2M3", 6, onnx="FLOAT6E2M3"),
    DType("F6_E3M2", 6, onnx="FLOAT6E3M2"),
    DType("U8", 8, "uint8", "uint8", "UINT8", computed="rounded"),
    DType("I8", 8, "int8", "int8", "INT8", computed="rounded"),
    DType("F8_E5M2", 8, "float8_e5m2", "float8_e5m2", "FLOAT8E5M2", taught=True, computed="rounded"),
    DType("F8_E4M3", 8, "float8_e4m3fn", "float8_e4m3fn", "FLOAT8E4M3FN", taught=True, computed="rounded"),
    DType("F8_E8M0", 8, "float8_e8m0fnu", "float8_e8m0fnu", "FLOAT8E8M0", taught=True),
    DType("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", "float8_e4m3fnuz", "FLOAT8E4M3FNUZ", taught=True),
    DType("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", "float8_e5m2fnuz", "FLOAT8E5M2FNUZ", taught=True),
    DType("I16", 16, "int16", "int16", "INT16", computed="rounded"),
    DType("U16", 16, "uint16", "uint16", "UINT16", computed="rounded"),
    DType("F16", 16, "float16", "float16", "FLOAT16", computed="float"),
    DType("BF16", 16, "bfloat16", "bfloat16", "BFLOAT16", taught=True, computed="float"),
    DType("I32", 32, "int32", "int32", "INT32", computed="rounded"),
    DType("U32", 32, "uint32", "uint32", "UINT32", computed="rounded"),
    DType("F32", 32, "float32", "float32", "FLOAT", computed="float"),
    DType("C64", 64, "complex64", "complex64", "COMPLEX64"),
    DType("F64", 64, "float64", "float64", "DOUBLE", computed="float"),
    DType("I64", 64, "int64", "int64", "INT64", computed="rounded"),
    DType("U64", 64, "uint64", "uint64", "UINT64", computed="rounded"),
)
"""Every dtype of the safetensors format: the one list that all readers and writers use."""

DTYPE_BITS = {dtype.name: dtype.bits for dtype in TABLE}
FLOATS = tuple(dtype.name for dtype in TABLE if dtype.computed == "float")
"""Dtypes whose weights are resampled, and from and to which `--dtype` casts. A float8 weight is left alone: it is
quantised, with a scale elsewhere."""
ROUNDED = tuple(dtype.name for dtype in TABLE if dtype.computed == "rounded")
"""Dtypes that are resampled as floats and rounded back, if a cast is allowed. Booleans, complex
numbers and packed numbers are always kept."""
_FLOAT8 = tuple(dtype.name for dtype in TABLE if dtype.name in ROUNDED and dtype.name.startswith("F8"))
OF_TORCH = {dtype.torch: dtype.name for dtype in TABLE if dtype.torch}
"""The safetensors name of each dtype of torch."""
OF_ONNX = {dtype.onnx: dtype.name for dtype in TABLE if dtype.onnx}
"""The safetensors name of each data type of ONNX."""
_OF_NUMPY = {dtype.numpy: dtype.name for dtype in TABLE if dtype.numpy}
_LARGEST = {"F16": ("65504", "BF16 or F32"), "BF16": ("3.38953e+38", "F32"), "F32": ("3.40282e+38", "F64")}
"""The largest finite value of each dtype to which wider floats are cast, and the dtypes to cast to instead."""
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}
_BY_NAME = {dtype.name: dtype for dtype in TABLE}

_SPELLINGS = OF_TORCH | {
    "fp16": "F16", "half": "F16", "bf16": "BF16", "fp32": "F32", "float": "F32", "fp64": "F64", "double": "F64",
}  # fmt: skip


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype of a safetensors dtype, little-endian.

    Raises
    ------
    RekernelError
        If NumPy does not have the dtype (sub-byte formats).

    Examples
    --------
    >>> numpy_dtype("F16").name, numpy_dtype("BF16").name
    ('float16', 'bfloat16')
    """
    dtype = _BY_NAME.get(name)
    if dtype is not None and dtype.numpy and not dtype.taught:
        return np.dtype("<" + np.dtype(dtype.numpy).str[1:])
    if dtype is not None and dtype.numpy:
        import ml_dtypes

        scalar: type[Any] = getattr(ml_dtypes, dtype.numpy)
        return np.dtype(scalar)
    raise RekernelError(f"dtype {name} has no NumPy counterpart, so rekernel cannot compute with its values")


def target_dtype(spelling: str) -> str:
    """Return the safetensors name of a float dtype, from any spelling that a user may give.

    Examples
    --------
    >>> target_dtype("fp16"), target_dtype("BF16")
    ('F16', 'BF16')
    """
    if not isinstance(spelling, str):
        plain = str(spelling).removeprefix("torch.")
        advice = f"{OF_TORCH[plain]!r}" if plain in OF_TORCH else "a name, such as 'F16'"
        raise RekernelError(f"dtype={short(spelling)} is not text; pass {advice}")
    name = _SPELLINGS.get(spelling.lower(), spelling.upper())
    if name not in FLOATS:
        raise RekernelError(f"dtype {spelling!r} is not one of {', '.join(FLOATS)} (or fp16, bfloat16, ...)")
    return name


def cast(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Cast `values` to another float dtype, or back to float8; raise if a finite value would not stay finite.

    Examples
    --------
    >>> cast(np.array([1.0, 2.0]), "F16").dtype.name
    'float16'
    """
    if dtype == "F16" and values.dtype == np.float32:
        result: NDArray[Any] = np.empty(values.shape, np.float16)
        round_half(values, result)
    else:
        with np.errstate(over="ignore"):
            result = values.astype(numpy_dtype(dtype))
    if dtype in _FLOAT8:
        refuse_beyond(values, numpy_dtype(dtype).name)
    elif dtype in _LARGEST and not _all_finite(result):
        lost = ~np.isfinite(result) & np.isfinite(values)
        if lost.any():
            worst, (largest, instead) = values[lost].flat[0], _LARGEST[dtype]
            raise RekernelError(
                f"value {float(worst):.6g} is too large for {dtype}, whose maximum is {largest}; cast to {instead} "
                f"instead"
            )
    return result


def refuse_overflow(result: NDArray[Any], wider: Callable[[], NDArray[Any]]) -> bool:
    """Raise if a value of `result` is infinite that is finite in `wider()`, the values before rounding, in float64.

    Returns
    -------
    finite : bool
        Whether all values are finite. Where they are not, those that they were computed from are not either.

    Examples
    --------
    >>> refuse_overflow(np.array([np.inf], np.float16), lambda: np.array([np.inf], np.float32))
    False
    """
    name = _OF_NUMPY.get(result.dtype.name, "")
    if name not in (*FLOATS, *_FLOAT8) or _all_finite(result):
        return True
    if name in _LARGEST:  # float64 is the widest: what is infinite there was so before
        cast(wider(), name)
    return False


def _all_finite(values: NDArray[Any]) -> bool:
    """Whether no value is infinite or NaN: in 16 bits, where NumPy looks at one number at a time, by the exponents.

    Examples
    --------
    >>> [_all_finite(np.array([0, x], np.float16)) for x in (1, np.inf, np.nan)]
    [True, False, False]
    """
    exponent = _EXPONENTS.get(values.dtype.name)
    if exponent is None:
        return bool(np.isfinite(values).all())
    return int((values.view(np.uint16) & exponent).max(initial=0)) < exponent
