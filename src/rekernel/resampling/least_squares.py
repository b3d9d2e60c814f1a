"""Design taps by least squares: the new taps whose frequency response is closest to an old tap's pure delay.

Scope: positions and frequency bands of one tap. Not here: kernels, grids and gain (see `operators`). Imports NumPy
alone.
Source: ours (no paper). Derivation: docs/mathematics.md, "The best kernel for a given number of taps".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .methods import SMOOTHNESS

Array = NDArray[np.float64]

PASS_BAND = 0.3
"""End of the pass band, in cycles per sample of the coarser grid."""
STOP_BAND = 0.7
"""Start of the stop band (the aliases), in cycles per old sample; the band ends at the new grid's Nyquist frequency."""
# Penalty on the sum of squared taps. It settles the response between the bands and bounds the taps, most of all at
# scales below 1.4, where the stop band is empty. It is a multiple of the smoothness, so that a smoothness of 0 is still
# plain dilation.
_WHITE, _RIDGE = 5e-3, 1e-9


def _band(x: Array, low: float, high: float) -> Array:
    """Integral of cos(2 pi f x) over low <= f <= high: the entries of every Gram matrix here."""
    return high * np.sinc(2 * high * x) - low * np.sinc(2 * low * x)


def optimal_taps(positions: Array, target: float, scale: float, *, smoothness: float = SMOOTHNESS) -> Array:
    """Taps at `positions` whose response is closest to that of one tap at `target`, with a DC gain of 1.

    Minimises (1 - smoothness) * integral over the pass band of |H(f) - exp(-2 pi i f target)|^2
    plus smoothness * integral over the stop band of |H(f)|^2, plus a white penalty of 1/200 of the smoothness,
    subject to H(0) = 1: a linear system.

    Parameters
    ----------
    positions : (n,) ndarray
        Positions of the new taps in new samples, any real numbers.
    target : float
        Position of the old tap in new samples.
    scale : float > 0
        New samples per old one; places the bands.
    smoothness : float in [0, 1)
        0 leaves the aliases in (plain dilation where one of `positions` is the target); larger is smoother.

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
