"""Define a low band that keeps the full size: it smooths the image where `low_band` averages blocks.

Scope: the blur that a rescaled kernel applies to its input (docs/mathematics.md, "Duality: what interpolating a weight
means" and "Interpolation = dilation, then smoothing"). Not here: averaging blocks (see `low_band`).
Our derivation: docs/guidance.md, "The rescaled network as its own low band".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...resampling.arrays import resample
from ...resampling.methods import canonical_method
from ...resampling.operators import kernel_operator


@dataclass(frozen=True)
class FilterSplit:
    """A low band without blocks: D is the blur that kernels rescaled by `method` apply to their input, U the identity.

    A network with all kernels rescaled applies this blur itself, so its input is the unblurred image. The blur defines
    how much noise this network sees (`gain`), and which band its prediction replaces.

    size : pixels per grid axis
    factors : scale of the rescaled kernels, one per grid axis
    method : method by which the kernels are rescaled

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
        """Pixels per grid axis of the pass that predicts the low band: the full size."""
        return self.size

    @property
    def gain(self) -> float:
        """Factor by which the blur multiplies the standard deviation of white noise, away from the borders."""
        return float(np.prod([np.linalg.norm(_taps(f, self.method)) for f in self.factors]))

    def low_input(self, x: Any) -> Any:
        """The unchanged image: the rescaled network blurs it."""
        return x

    def reduce_grid(self, x: Any) -> Any:
        """The blurred array, (..., *size)."""
        axes = len(self.size)
        pairs = enumerate(zip(self.size, self.factors, strict=True))
        matrices = {i - axes: _blur(n, f, self.method) for i, (n, f) in pairs if f != 1}
        return resample(x, matrices) if matrices else x

    def enlarge_grid(self, y: Any) -> Any:
        """The unchanged array."""
        return y


@lru_cache(maxsize=32)
def _taps(factor: float, method: str) -> NDArray[np.float64]:
    """The blur along one axis: the kernel into which one old tap is rescaled."""
    return kernel_operator(1, factor, canonical_method(method), gain="dc")[:, 0] if factor != 1 else np.ones(1)


@lru_cache(maxsize=32)
def _blur(size: int, factor: float, method: str) -> NDArray[np.float64]:
    """The blur as a (size, size) matrix; border pixels are repeated outwards, so that constants are preserved."""
    taps = _taps(factor, method)
    matrix = np.zeros((size, size))
    for offset, tap in enumerate(taps, start=-(len(taps) // 2)):
        np.add.at(matrix, (np.arange(size), np.clip(np.arange(size) + offset, 0, size - 1)), tap)
    return matrix
