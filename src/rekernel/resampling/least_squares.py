"""The least-squares design: the new taps whose frequency response is closest to an old tap's pure delay.

Knows positions and bands; no kernel, grid, gain or layer. Imports NumPy alone.
Source: ours (no paper). Derivation: docs/mathematics.md, "The best kernel for a given number of taps".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .methods import SMOOTHNESS

Array = NDArray[np.float64]

PASS_BAND = 0.3
"""End of the band to keep, in cycles per sample of the coarser grid."""
STOP_BAND = 0.7
"""Start of the band of spectral copies to remove, in cycles per old sample; it ends at the new grid's Nyquist."""
# White penalty: it decides what neither band does and bounds the taps, most of all at scales below 1.4, whose stop band
# is empty. Relative to the smoothness, so that a smoothness of 0 is still plain dilation.
_WHITE, _RIDGE = 5e-3, 1e-9


def _band(x: Array, low: float, high: float) -> Array:
    """Integral of cos(2 pi f x) over low <= f <= high: the entries of every Gram matrix here."""
    return high * np.sinc(2 * high * x) - low * np.sinc(2 * low * x)


def optimal_taps(positions: Array, target: float, scale: float, *, smoothness: float = SMOOTHNESS) -> Array:
    """Taps at `positions` that act most like one tap at `target`, with unit gain at zero frequency.

    Minimises (1 - smoothness) * integral over the pass band of |H(f) - exp(-2 pi i f target)|^2
    plus smoothness * integral over the stop band of |H(f)|^2, plus a white penalty of 1/200 of the smoothness,
    subject to H(0) = 1: a linear system.

    Parameters
    ----------
    positions : (n,) ndarray
        In new samples, any real numbers.
    target : float
        In new samples.
    scale : float > 0
        New samples per old one; places the bands.
    smoothness : float in [0, 1)
        0 leaves the spectral copies in (plain dilation where the position exists); larger is smoother.

    Returns
    -------
    (n,) ndarray, float64, sum 1

    Examples
    --------
    >>> optimal_taps(np.array([-1.0, 0.0, 1.0]), 0.0, 2.0, smoothness=0.0).round(3).tolist() == [0, 1, 0]
    True
    """
    end_of_pass = PASS_BAND / max(scale, 1.0)
    start_of_stop = min(STOP_BAND / scale, 0.5)
    lags = positions[:, None] - positions[None, :]
    keep = 1.0 - smoothness
    gram = keep * _band(lags, 0.0, end_of_pass) + smoothness * _band(lags, start_of_stop, 0.5)
    gram += (_RIDGE + _WHITE * smoothness) * np.eye(len(positions))
    wanted = keep * _band(positions - target, 0.0, end_of_pass)
    # Lagrange: [gram 1; 1' 0] [taps; multiplier] = [wanted; 1]
    ones = np.ones((len(positions), 1))
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])
    taps = np.linalg.solve(system, np.append(wanted, 1.0))[:-1]
    return np.asarray(taps / taps.sum(), dtype=np.float64)
