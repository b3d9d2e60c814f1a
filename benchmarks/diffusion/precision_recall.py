"""Compute precision and recall of generated features: how many are among true ones, how many true ones are covered.

Scope: matrices. Not here: images and features (see `judge_network`).
Source: arXiv 1904.06991. The set of true rows reaches, around each of them, as far as its third nearest other row;
precision is the share of generated rows within reach. Recall is the same with the two sets exchanged. Both depend on
the sizes of the sets, so compare rows of equal N only.
"""

import numpy as np
from intervals import Measured, share
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

NEIGHBOURS = 3


def precision_recall(real: NDArray[np.floating], made: NDArray[np.floating]) -> tuple[Measured, Measured]:
    """Precision and recall of (N, F) `made` against (M, F) `real`, each with the share's interval.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> [measured.value for measured in precision_recall(x, x[:50] / 1000)]
    [1.0, 0.0]
    """
    apart = cdist(real, made)
    covered = (apart <= _reach(real)[:, None]).any(axis=0)
    reached = (apart <= _reach(made)[None]).any(axis=1)
    return share(covered), share(reached)


def _reach(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance of each row to its `NEIGHBOURS`-th nearest other row; the nearest of all is the row itself."""
    return np.partition(cdist(x, x), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
