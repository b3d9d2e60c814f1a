"""Read and write 16-bit floats block by block, in hardware where the process has imported torch.

Scope: casts between the dtype of an array and the dtype of its sums. Not here: the sums (see `products`). torch is
never loaded for a cast. NumPy casts float16 one number at a time, and torch is several times as fast.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rounding.half import round_half
from .torch_memory import tensor_on

_CHUNK = 32_000  # numbers; from 32,768 on torch starts threads of its own beside ours


def widened(block: NDArray[Any], wide: np.dtype[Any]) -> NDArray[Any]:
    """The block in a wide dtype; the block itself if that is its dtype.

    Examples
    --------
    >>> widened(np.ones(2, np.float16), np.dtype(np.float32))
    array([1., 1.], dtype=float32)
    """
    torch = sys.modules.get("torch")
    if torch is None or not _known_to_torch(block.dtype):
        return block.astype(wide, copy=False)
    if not (block.flags.writeable and block.flags.c_contiguous):
        block = block.copy()  # torch warns of memory that is read-only, and refuses steps backwards
    out = np.empty(block.shape, wide)
    _copy(tensor_on(block), torch.from_numpy(out))
    return out


def narrowed(block: NDArray[Any], out: NDArray[Any]) -> None:
    """Write the block into `out`, rounded to nearest even.

    torch and NumPy round alike, subnormals included, so the bytes are the same.

    Parameters
    ----------
    block : float32 or float64
    out : any dtype of NumPy or ml_dtypes; for integers the block has to hold whole numbers in their range

    Examples
    --------
    >>> out = np.empty(2, np.float16)
    >>> narrowed(np.array([0.5, 1e6], np.float32), out)
    >>> out
    array([0.5, inf], dtype=float16)
    """
    torch = sys.modules.get("torch")
    if torch is not None and _known_to_torch(out.dtype):
        _copy(torch.from_numpy(block), tensor_on(out))
        return
    if out.dtype == np.float16 and block.dtype == np.float32:
        round_half(block, out)
        return
    with np.errstate(over="ignore"):  # becomes infinite, as in torch; writing a checkpoint refuses infinite values
        out[...] = block


def _copy(source: Any, target: Any) -> None:
    """Copy a tensor into another one in the calling thread alone."""
    if not (source.is_contiguous() and target.is_contiguous()):
        target.copy_(source)
        return
    count = -(-source.numel() // _CHUNK)
    for part, place in zip(source.view(-1).chunk(count), target.view(-1).chunk(count), strict=True):
        place.copy_(part)


def _known_to_torch(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is float16 or bfloat16 in the byte order of this machine.

    Examples
    --------
    >>> _known_to_torch(np.dtype("float16")), _known_to_torch(np.dtype("float32"))
    (True, False)
    """
    return dtype == np.float16 or dtype.name == "bfloat16"
