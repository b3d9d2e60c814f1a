"""Define the interpolation filters phi(x), with x in old samples; `operators` samples them into matrices.

Scope: formulas and their support. Not here: taps, gain and edges (see `operators`). Imports NumPy alone.
Derivation: docs/mathematics.md, "The filters".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from .methods import KEYS_A

Array = NDArray[np.float64]


_TIE = 1e-9  # Positions are quotients, so a tie between two old samples must be detected up to rounding.


@dataclass(frozen=True)
class Filter:
    """An interpolation filter and its support.

    phi : weight of an old sample at signed distance x, in old samples; zero beyond `radius`
    radius : half the support, in old samples
    closed : whether phi is nonzero exactly at the radius (only the box is)
    """

    phi: Callable[[Array], Array]
    radius: float
    closed: bool = False

    def widened(self, scale: float) -> Filter:
        """The filter for a coarser grid (`scale` < 1): stretched, so that it removes what would alias on that grid."""
        return Filter(lambda x: scale * self.phi(scale * x), self.radius / scale, self.closed)


def _box(x: Array) -> Array:
    # At a jump, take the mean of both sides: the filter stays symmetric, and a Fourier series converges to the mean.
    distance = np.abs(x)
    return np.where(np.abs(distance - 0.5) <= _TIE, 0.5, np.where(distance < 0.5, 1.0, 0.0))


def _triangle(x: Array) -> Array:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _keys(x: Array, a: float) -> Array:
    d = np.abs(x)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((d - 5) * d + 8) * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _lanczos3(x: Array) -> Array:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def _overlap(x: Array, scale: float) -> Array:
    """Fraction of a new pixel (width 1/scale, centred at x) that overlaps the old pixel (width 1, centred at 0)."""
    half = 0.5 / scale
    covered = np.minimum(x + half, 0.5) - np.maximum(x - half, -0.5)
    return np.asarray(np.maximum(covered, 0.0) * scale, dtype=np.float64)


def interpolation_filter(method: str, scale: float, *, a: float = KEYS_A) -> Filter:
    """The filter of an interpolating `method` at `scale` (new samples per old one), antialiased when `scale` < 1.

    Parameters
    ----------
    method : {'nearest', 'linear', 'cubic', 'lanczos3', 'area'}
    scale : float > 0
    a : float
        Parameter of Keys' cubic; other methods ignore it.

    Raises
    ------
    RekernelError
        For a method that is not an interpolation.

    Examples
    --------
    >>> interpolation_filter("linear", 2.0).phi(np.array([0.0, 0.5, 1.0])).tolist()
    [1.0, 0.5, 0.0]
    """
    if method == "area":
        return Filter(lambda x: _overlap(x, scale), 0.5 + 0.5 / scale)
    shapes: dict[str, Filter] = {
        "nearest": Filter(_box, 0.5, closed=True),
        "linear": Filter(_triangle, 1.0),
        "cubic": Filter(lambda x: _keys(x, a), 2.0),
        "lanczos3": Filter(_lanczos3, 3.0),
    }
    if method not in shapes:
        raise RekernelError(f"{method!r} is not an interpolation filter; choose from {sorted([*shapes, 'area'])}")
    return shapes[method] if scale >= 1 else shapes[method].widened(scale)
