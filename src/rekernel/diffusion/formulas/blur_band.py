"""The low band kept at full size: a smoothing filter in the place of averaging blocks.

Knows the blur that a rescaled kernel does to its input (design 2.3 and 2.4); the block form is `bands`.
Our derivation: docs/guidance.md, "The rescaled network as its own low band".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...resampling.arrays import resample
from ...resampling.operators import kernel_operator


@dataclass(frozen=True)
class FilterSplit:
    """A low band without blocks: D is the blur that kernels rescaled by `method` apply to their input, U is nothing.

    A network whose every kernel is rescaled does that blur itself, so it is given the image unblurred; the blur tells
    how much noise it sees (`gain`), and which band its answer replaces.

    size : pixels per grid axis
    factors : of the rescaled kernels, one per grid axis
    method : of the rescaled kernels

    Examples
    --------
    >>> split = FilterSplit((16, 16), (2.0, 2.0))
    >>> 0.4 < split.gain < 0.6, split.reduce_grid(np.ones((16, 16))).mean().round(12)
    (True, np.float64(1.0))
    """

    size: tuple[int, ...]
    factors: tuple[float, ...]
    method: str = "optimal-filter"

    @property
    def low(self) -> tuple[int, ...]:
        """Pixels of the low-resolution pass: as many as before."""
        return self.size

    @property
    def gain(self) -> float:
        """What the blur leaves of white noise's standard deviation, away from the borders."""
        return float(np.prod([np.linalg.norm(_taps(f, self.method)) for f in self.factors]))

    def low_input(self, x: Any) -> Any:
        """The image as it is: the rescaled network blurs it."""
        return x

    def reduce_grid(self, x: Any) -> Any:
        """The blurred array, (..., *size)."""
        axes = len(self.size)
        pairs = enumerate(zip(self.size, self.factors, strict=True))
        matrices = {i - axes: _blur(n, f, self.method) for i, (n, f) in pairs if f != 1}
        return resample(x, matrices) if matrices else x

    def enlarge_grid(self, y: Any) -> Any:
        """The array as it is."""
        return y


@lru_cache(maxsize=32)
def _taps(factor: float, method: str) -> NDArray[np.float64]:
    """The blur of one axis: what one old tap becomes."""
    return kernel_operator(1, factor, method, gain="dc")[:, 0] if factor != 1 else np.ones(1)


@lru_cache(maxsize=32)
def _blur(size: int, factor: float, method: str) -> NDArray[np.float64]:
    """(size, size): the border pixels repeat outwards, so that a constant stays one."""
    taps = _taps(factor, method)
    matrix = np.zeros((size, size))
    for offset, tap in enumerate(taps, start=-(len(taps) // 2)):
        np.add.at(matrix, (np.arange(size), np.clip(np.arange(size) + offset, 0, size - 1)), tap)
    return matrix
