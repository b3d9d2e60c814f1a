"""Translate between the dtypes of torch and their safetensors names."""

from __future__ import annotations

import torch

from ..checkpoint.dtypes import OF_TORCH

# An older torch lacks the youngest float8.
TORCH_DTYPES = {name: getattr(torch, own) for own, name in OF_TORCH.items() if hasattr(torch, own)}
"""The dtypes of torch, by their safetensors names."""
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch dtype.

    Examples
    --------
    >>> dtype_name(torch.float16)
    'F16'
    """
    return _NAMES.get(dtype, str(dtype).removeprefix("torch.").upper())
