"""Read and write float16 block by block, in hardware where the process has imported torch.

Scope: casts between the dtype of an array and the dtype of its sums. Not here: the sums (see `products`). torch is
never loaded for a cast. NumPy casts float16 one number at a time, and torch is several times as fast. In bfloat16
ml_dtypes is faster than torch (benchmarks/speed/resample.py).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rounding.half import round_half


def widened(block: NDArray[Any], wide: np.dtype[Any]) -> NDArray[Any]:
    """The block in a wide dtype; the block itself if that is its dtype.

    Examples
    --------
    >>> widened(np.ones(2, np.float16), np.dtype(np.float32))
    array([1., 1.], dtype=float32)
    """
    torch = sys.modules.get("torch")
    if torch is None or block.dtype != np.float16:
        return block.astype(wide, copy=False)
    if not (block.flags.writeable and block.flags.c_contiguous):
        block = block.copy()  # torch warns of memory that is read-only, and refuses steps backwards
    out = np.empty(block.shape, wide)
    torch.from_numpy(out).copy_(torch.from_numpy(block))
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
    if out.dtype == np.float16 and torch is not None:
        torch.from_numpy(out).copy_(torch.from_numpy(block))
        return
    if out.dtype == np.float16 and block.dtype == np.float32:
        round_half(block, out)
        return
    with np.errstate(over="ignore"):  # becomes infinite, as in torch; writing a checkpoint refuses infinite values
        out[...] = block
