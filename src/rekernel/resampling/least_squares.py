"""Design taps by least squares: the new taps whose frequency response is closest to an old tap's pure delay.

Scope: positions and frequency bands, of the taps of a kernel and of one filter. Not here: the limit on the response
(see `response_limit`), kernels, grids and gain (see `operators`). Imports NumPy, and SciPy where a kernel is designed.
Source: ours (no paper). Derivation: docs/mathematics.md, "The best kernel for a given number of taps".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .methods import SMOOTHNESS
from .response_limit import limited, too_loud, two_nearest

Array = NDArray[np.float64]

PASS_BAND = 0.3
"""End of the pass band, in cycles per sample of the coarser grid."""
STOP_BAND = 0.7
"""Start of the stop band (the aliases), in cycles per old sample; the band ends at the new grid's Nyquist frequency."""
ROLL_OFF = 0.03
"""Weight of the band between the two, as a multiple of the smoothness: it decides what neither band decides."""
REACH = 8.0
"""Samples of the coarser grid on either side that a column may use where the limit on the response decides."""
# Penalty on the distance to the plain tap. It decides what no band decides at a smoothness of 0, which is therefore
# plain dilation.
_PLAIN = 1e-6
# Penalty on the sum of squared taps of the single filter, for the same purpose; a multiple of the smoothness.
_WHITE, _RIDGE = 5e-3, 1e-9
_CLOSE = 1e-9  # positions are products of small numbers: equality up to rounding


def _band(x: Array, low: float, high: float) -> Array:
    """Integral of cos(2 pi f x) over low <= f <= high: the entries of every Gram matrix here."""
    return high * np.sinc(2 * high * x) - low * np.sinc(2 * low * x)


def _roll_off(x: Array, low: float, high: float, end: float) -> Array:
    """Integral of D(f) cos(2 pi f x) over low <= f <= end, for D = 1/2 + 1/2 cos(pi (f - low) / (high - low))."""
    if high == low:
        return np.zeros_like(x)
    middle, width, slope = (low + end) / 2, end - low, 0.5 / (high - low)
    halves = [
        np.cos(2 * np.pi * (x + sign * slope) * middle - sign * 2 * np.pi * slope * low)
        * np.sinc((x + sign * slope) * width)
        for sign in (1.0, -1.0)
    ]
    return np.asarray(_band(x, low, end) / 2 + width / 4 * (halves[0] + halves[1]), dtype=np.float64)


@dataclass(frozen=True)
class Design:
    """The taps of several old ones by least squares, and what a constraint on them needs.

    `columns` has the shape (taps, old taps). `plain` holds the same columns of an interpolation by the two nearest
    new taps. `correct` maps forces on the taps, (taps, n), to the changes of the taps that they cause; these sum to 0.
    """

    columns: Array
    plain: Array
    correct: Callable[[Array], Array]


def _design(count: int, targets: Array, scale: float, smoothness: float) -> Design:
    """Solve one least-squares problem for every target by one Cholesky factorisation, with a DC gain of 1."""
    from scipy.linalg import cho_factor, cho_solve, toeplitz

    coarser = max(scale, 1.0)
    end_of_pass, start_of_stop = PASS_BAND / coarser, STOP_BAND / coarser
    end_of_roll_off = min(start_of_stop, 0.5)
    keep, between = 1.0 - smoothness, ROLL_OFF * smoothness
    positions = np.arange(count, dtype=np.float64)
    lags = positions[:, None] - targets
    plain = two_nearest(count, targets)
    row = keep * _band(positions, 0.0, end_of_pass) + smoothness * _band(positions, end_of_roll_off, 0.5)
    row += between * _band(positions, end_of_pass, end_of_roll_off)
    row[0] += _PLAIN
    wanted = keep * _band(lags, 0.0, end_of_pass) + _PLAIN * plain
    wanted += between * _roll_off(lags, end_of_pass, start_of_stop, end_of_roll_off)
    factor = cho_factor(toeplitz(row), overwrite_a=True, check_finite=False)
    constant = cho_solve(factor, np.ones(count))
    constant /= constant.sum()

    def correct(forces: Array) -> Array:
        moved = cho_solve(factor, forces)
        return np.asarray(moved - constant[:, None] * moved.sum(axis=0), dtype=np.float64)

    return Design(correct(wanted) + constant[:, None], plain, correct)


def optimal_columns(count: int, targets: Array, scale: float, *, smoothness: float = SMOOTHNESS) -> Array:
    """For each target, `count` taps whose response is closest to that of one tap there, with a DC gain of 1.

    Minimises (1 - smoothness) * integral over the pass band of |H(f) - exp(-2 pi i f target)|^2
    plus smoothness * integral over the stop band of |H(f)|^2, plus ROLL_OFF * smoothness * integral over the band
    between the two of |H(f) - D(f) exp(-2 pi i f target)|^2, where D falls from 1 to 0 as half a cosine, subject to
    H(0) = 1. One Cholesky factorisation serves all targets. Where |H| would exceed LIMIT, the column is designed
    again with half the smoothness and the constraint |H| <= LIMIT.

    Parameters
    ----------
    count : int
        Number of new taps; they lie at 0, 1, ..., count - 1.
    targets : (k,) ndarray
        Positions of the old taps in new samples, any real numbers, counted from the first new tap.
    scale : float > 0
        New samples per old one; places the bands.
    smoothness : float in [0, 1)
        0 leaves the aliases in (plain dilation where the targets are whole); larger is smoother.

    Returns
    -------
    (count, k) ndarray, float64; columns sum to 1

    Examples
    --------
    >>> optimal_columns(3, np.array([1.0]), 2.0, smoothness=0.0).round(6).ravel().tolist() == [0, 1, 0]
    True
    """
    columns = _design(count, targets, scale, smoothness).columns
    loud = np.flatnonzero(too_loud(columns))
    columns[:, loud] = 0.0
    for rows, which in near_taps(count, targets[loud], REACH * max(scale, 1.0)):
        # Half the smoothness gives the pass band back what the limit takes from it.
        design = _design(len(rows), targets[loud[which]] - rows[0], scale, smoothness / 2)
        columns[rows, loud[which]] = limited(design)
    return np.asarray(columns / columns.sum(axis=0), dtype=np.float64)


def near_taps(count: int, targets: Array, reach: float) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Which of the taps 0, ..., count - 1 are less than `reach` away from each target.

    Yields, for each number of such taps, their rows, (number, m), and the indices of the m targets that have so many:
    one design with one factorisation.

    Examples
    --------
    >>> [(rows.T.tolist(), which.tolist()) for rows, which in near_taps(4, np.array([0.0, 1.5, 2.0]), 1.0)]
    [([[0], [2]], [0, 2]), ([[1, 2]], [1])]
    """
    inside = np.clip(targets, 0, count - 1)
    first = np.maximum(np.floor(inside - reach + _CLOSE) + 1, 0).astype(np.intp)
    sizes = np.minimum(np.ceil(inside + reach - _CLOSE), count).astype(np.intp) - first
    for size in np.unique(sizes):
        which = np.flatnonzero(sizes == size)
        yield first[which] + np.arange(size)[:, None], which


def filter_taps(positions: Array, scale: float, *, smoothness: float = SMOOTHNESS) -> Array:
    """Taps at `positions` whose response is closest to that of one tap at 0, with a DC gain of 1: a single filter.

    As `optimal_columns`, with the band between the two left free and a white penalty of 1/200 of the smoothness. A
    filter has room on both sides of its target, so its response needs no limit.

    Parameters
    ----------
    positions : (n,) ndarray
        Positions of the taps in new samples, any real numbers.
    scale, smoothness
        As for `optimal_columns`.

    Returns
    -------
    (n,) ndarray, float64, sum 1

    Examples
    --------
    >>> filter_taps(np.array([-1.0, 0.0, 1.0]), 2.0, smoothness=0.0).round(3).tolist() == [0, 1, 0]
    True
    """
    end_of_pass = PASS_BAND / max(scale, 1.0)
    start_of_stop = min(STOP_BAND / scale, 0.5)
    lags = positions[:, None] - positions[None, :]
    keep = 1.0 - smoothness
    gram = keep * _band(lags, 0.0, end_of_pass) + smoothness * _band(lags, start_of_stop, 0.5)
    gram += (_RIDGE + _WHITE * smoothness) * np.eye(len(positions))
    wanted = keep * _band(positions, 0.0, end_of_pass)
    # Lagrange: [gram 1; 1' 0] [taps; multiplier] = [wanted; 1]
    ones = np.ones((len(positions), 1))
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])
    taps = np.linalg.solve(system, np.append(wanted, 1.0))[:-1]
    return np.asarray(taps / taps.sum(), dtype=np.float64)
