"""Scores of a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(guesses: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the fraction of correct guesses.

    Examples
    --------
    >>> accuracy(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]))
    0.75
    """
    return float((guesses == labels).mean())


def macro_f1(guesses: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the mean over the classes of 2 * hits / (guessed + present).

    Examples
    --------
    >>> round(macro_f1(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1])), 3)
    0.733
    """
    scores = []
    for c in np.unique(labels):
        hits = int(((guesses == c) & (labels == c)).sum())
        scores.append(2 * hits / int((guesses == c).sum() + (labels == c).sum()))
    return float(np.mean(scores))
