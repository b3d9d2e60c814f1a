"""Give each thread memory to compute in, again and again the same.

The system clears the pages of every large array that is allocated anew, which takes as long as computing with it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Scratch(threading.local):
    """Arrays of the thread that asks, each under a name. What an array held before is still in it.

    Examples
    --------
    >>> scratch = Scratch()
    >>> scratch.array("sum", 4, np.float32)[:] = 1
    >>> scratch.array("sum", 2, np.float32)
    array([1., 1.], dtype=float32)
    """

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, size: int, dtype: Any, fill: Any = None) -> NDArray[Any]:
        """An array of `size` values. `fill`, where given, is the value of all of them if nobody changes the array."""
        found = self._arrays.get(name)
        if found is None or found.size < size or found.dtype != dtype:
            found = np.empty(size, dtype) if fill is None else np.full(size, fill, dtype)
            self._arrays[name] = found
        return found[:size]
