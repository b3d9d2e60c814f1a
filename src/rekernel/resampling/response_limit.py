"""Hold the frequency response of every designed column below a limit, by cutting planes.

Scope: the constraint. Not here: what is minimised (see `least_squares`). Imports NumPy alone.
Source: ours; Kelley's cutting planes (1960), with one non-negative least-squares problem per column and round.
Derivation: docs/mathematics.md, "The limit on the response".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIMIT = 1.05
"""Largest gain of a column at any frequency; what is above amplifies noise, once per layer."""
# |H|^2 of n taps is a trigonometric polynomial of degree n - 1: from its values at N frequencies it is known up to a
# factor of cos(pi (n - 1) / N) (Ehlich and Zeller 1964). At 64 frequencies per tap |H| is at most .0007 above the
# largest value, at 16 at most .0103. A cut asks for less than _DONE, so that few rounds reach it.
_CUT, _DONE, _SUSPECT = 1.048, 1.0485, 1.038
_COARSE, _FINE = 16, 64
_MOST_ROUNDS = 40
_TOGETHER = 1 << 20  # complex numbers at a time


class Designed(Protocol):
    """`least_squares.Design`."""

    @property
    def columns(self) -> Array: ...
    @property
    def plain(self) -> Array: ...
    @property
    def correct(self) -> Callable[[Array], Array]: ...


def peaks(columns: Array, density: int = _FINE) -> Array:
    """Largest |H| of each column at `density` frequencies per tap, or more.

    Examples
    --------
    >>> peaks(np.array([[1.0, 0.5], [0.0, -0.5]])).tolist()
    [1.0, 1.0]
    """
    points = _points(len(columns), density)
    width = max(1, _TOGETHER // points)
    parts = [
        np.abs(np.fft.rfft(columns[:, at : at + width], points, axis=0)).max(axis=0)
        for at in range(0, columns.shape[1], width)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def too_loud(columns: Array) -> NDArray[np.bool_]:
    """Whether |H| of each column exceeds the limit, with a margin for what lies between the frequencies."""
    loud = peaks(columns, _COARSE) > _SUSPECT
    loud[loud] = peaks(columns[:, loud]) > _DONE
    return loud


def two_nearest(count: int, targets: Array) -> Array:
    """Linear interpolation at each target between the two nearest of the taps 0, ..., count - 1; |H| <= 1.

    Examples
    --------
    >>> two_nearest(3, np.array([-0.5, 0.25, 2.0])).T.tolist()
    [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]
    """
    inside = np.clip(targets, 0.0, count - 1.0)
    share = np.maximum(0.0, 1.0 - np.abs(np.arange(count)[:, None] - inside))
    # A target that is whole up to rounding is whole.
    share = np.where(share > 1.0 - 1e-9, 1.0, np.where(share < 1e-9, 0.0, share))
    return np.asarray(share, dtype=np.float64)


def limited(design: Designed) -> Array:
    """Columns that minimise the design's objective among those with |H(f)| <= LIMIT at every frequency.

    Where |H| of a column peaks above the limit, at f and with the angle a, the half-space Re(exp(-i a) H(f)) <= LIMIT
    contains every column that keeps the limit, and not this one. The nearest column in all half-spaces found so far
    is a non-negative least-squares problem of few unknowns. A column that is still above after many rounds is mixed
    with `plain`, whose response is at most 1 everywhere.

    Parameters
    ----------
    design : least_squares.Design

    Returns
    -------
    (taps, columns) ndarray, float64; columns sum to 1

    Examples
    --------
    >>> from rekernel.resampling.least_squares import _design
    >>> design = _design(5, np.array([0.0]), 2.0, 0.01)
    >>> peaks(design.columns).round(2).tolist(), peaks(limited(design)).round(2).tolist()
    ([1.25], [1.05])
    """
    free = design.columns
    columns = free.copy()
    count, number = free.shape
    cuts = [np.zeros((0, count))] * number
    effects = [np.zeros((count, 0))] * number
    live = np.flatnonzero(too_loud(columns)).tolist()
    for _ in range(_MOST_ROUNDS):
        if not live:
            break
        fresh = [_cuts(columns[:, j]) for j in live]
        moved = np.split(design.correct(np.concatenate(fresh).T), np.cumsum([len(cut) for cut in fresh])[:-1], axis=1)
        for j, cut, effect in zip(live, fresh, moved, strict=True):
            cuts[j], effects[j] = np.concatenate([cuts[j], cut]), np.concatenate([effects[j], effect], axis=1)
            columns[:, j] = free[:, j] - effects[j] @ _forces(cuts[j] @ effects[j], cuts[j] @ free[:, j] - _CUT)
        live = [j for j, peak in zip(live, peaks(columns[:, live]), strict=True) if peak > _DONE]
    for j, peak in zip(live, peaks(columns[:, live]), strict=True):
        columns[:, j] = design.plain[:, j] + (_DONE - 1) / (peak - 1) * (columns[:, j] - design.plain[:, j])
    return columns


def _cuts(taps: Array) -> Array:
    """One row per local maximum of |H| above the limit: row @ taps is |H| there."""
    points = _points(len(taps), _FINE)
    response = np.fft.rfft(taps, points)
    gain = np.abs(response)
    around = np.concatenate([[0.0], gain, [0.0]])
    at = np.flatnonzero((gain >= around[:-2]) & (gain >= around[2:]) & (gain > _DONE))
    turns = 2 * np.pi / points * (at[:, None] * np.arange(len(taps)) % points)
    return np.asarray(np.cos(turns + np.angle(response[at])[:, None]), dtype=np.float64)


def _forces(gram: Array, excess: Array) -> Array:
    """Forces y >= 0 that minimise y' gram y / 2 - y' excess: the dual of the nearest column in all half-spaces.

    The active-set method of Lawson and Hanson for non-negative least squares, on the Gram matrix.
    """
    gram = (gram + gram.T) / 2
    gram = gram + 1e-10 * np.trace(gram) * np.eye(len(gram))  # neighbouring cuts are nearly the same
    forces, active = np.zeros(len(gram)), np.zeros(len(gram), dtype=bool)
    for _ in range(4 * len(gram)):
        pull = np.where(active, -np.inf, excess - gram @ forces)
        if pull.max() <= 1e-9:
            break
        active[pull.argmax()] = True
        while active.any():
            wanted = np.zeros(len(gram))
            wanted[active] = np.linalg.solve(gram[np.ix_(active, active)], excess[active])
            wrong = active & (wanted <= 0)
            if not wrong.any():
                forces = wanted
                break
            # Go as far as no force becomes negative, and drop those that became 0.
            share = (forces[wrong] / (forces[wrong] - wanted[wrong])).min()
            forces = np.where(active, forces + share * (wanted - forces), 0.0)
            active &= ~(wrong & (forces <= 1e-12 * max(1.0, forces.max())))
    return forces


def _points(count: int, density: int) -> int:
    """Points of the transform: a power of 2."""
    return 1 << (density * count - 1).bit_length()
