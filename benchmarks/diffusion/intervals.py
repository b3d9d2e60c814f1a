"""Give a number the ends of its 95 % interval: Wilson's for shares, a bootstrap for means.

Scope: numbers of one set of pictures. Not here: the interval of the Frechet distance (see `frechet`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Measured:
    """A number and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def share(hits: NDArray[np.bool_]) -> Measured:
    """The share of True, with Wilson's interval, which is neither empty at 0 or 1 nor leaves [0, 1].

    Examples
    --------
    >>> print(share(np.array([True] * 9 + [False])))
    0.9 (0.596 to 0.982)
    """
    n, p = len(hits), float(np.mean(hits))
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return Measured(p, max(float(centre - half), 0.0), min(float(centre + half), 1.0))


def mean_ratio(values: NDArray[np.float64], over: float, *, resamples: int = 1000, seed: int = 0) -> Measured:
    """mean(`values`) / `over`, with the bootstrap percentile interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]) / over
    return Measured(float(values.mean() / over), float(low), float(high))
