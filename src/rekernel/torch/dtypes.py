"""Translate between the dtypes of torch and their safetensors names."""

from __future__ import annotations

import torch

_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.uint16: "U16", torch.int16: "I16",
    torch.uint32: "U32", torch.int32: "I32", torch.uint64: "U64", torch.int64: "I64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}  # fmt: skip

if hasattr(torch, "float8_e8m0fnu"):  # torch 2.7
    _NAMES[torch.float8_e8m0fnu] = "F8_E8M0"

TORCH_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
"""The dtypes of torch, by their safetensors names."""


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch dtype.

    Examples
    --------
    >>> dtype_name(torch.float16)
    'F16'
    """
    return _NAMES.get(dtype, str(dtype).removeprefix("torch.").upper())
