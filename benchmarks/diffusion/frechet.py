"""Compute the Frechet distance between two sets of features, and its uncertainty.

Scope: matrices. Not here: images and features (see `glyph_features`). Imports NumPy alone. The distance
is that of two Gaussians (Dowson and Landau 1982, the "FID" of arXiv 1706.08500 with other features).

It is biased upwards: two sets of N drawn from one distribution are at a distance of the order of features / N, not 0.
So compare only rows with the same N, and state the floor: the distance between two sets of N true pictures.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]


def frechet_distance(a: Features, b: Features) -> float:
    """Squared distance |mean a - mean b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) between (N, F) and (M, F); in float64.

    Raises
    ------
    ValueError
        Where a set has fewer than two rows or the number of features differs.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> round(frechet_distance(x, x), 9), round(frechet_distance(x, x + [3, 0, 4]), 9)
    (0.0, 25.0)
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features of the shapes {a.shape} and {b.shape}: pass (N, F) and (M, F), N and M at least 2.")
    mean_a, cov_a = _moments(a)
    return _distance(mean_a, cov_a, _root(cov_a), *_moments(b))


def bootstrap_distances(real: Features, made: Features, *, resamples: int = 200, seed: int = 0) -> NDArray[np.float64]:
    """Distances of `resamples` sets drawn with replacement from `made`, (N, F), to all of `real`, (M, F)."""
    mean, cov = _moments(real)
    root = _root(cov)
    return np.array([_distance(mean, cov, root, *_moments(part)) for part in _resampled(made, resamples, seed)])


def frechet_interval(
    real: Features, made: Features, *, level: float = 0.95, resamples: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """Distance, and the ends of its bootstrap interval over the generated set.

    The interval is the percentile one, moved by the bootstrap's own bias: a resampled set has repeated rows, so its
    distances lie above the one they describe by about as much as that lies above its value for endless samples.
    It tells how much another N pictures would change the number, not how far the number is from its limit.
    """
    distance = frechet_distance(real, made)
    drawn = bootstrap_distances(real, made, resamples=resamples, seed=seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) - drawn.mean() + distance
    return distance, max(float(low), 0.0), float(high)


def _moments(x: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = np.asarray(x, np.float64)
    return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


def _root(cov: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root of a covariance; rounding may leave eigenvalues just below 0."""
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _distance(mean_a: NDArray, cov_a: NDArray, root_a: NDArray, mean_b: NDArray, cov_b: NDArray) -> float:
    """The trace of (A^1/2 B A^1/2)^1/2 is the sum of the square roots of a symmetric matrix's eigenvalues."""
    shared = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(min=0)).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
    return max(float(distance), 0.0)


def _resampled(x: Features, count: int, seed: int) -> Iterator[Features]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield x[rng.integers(len(x), size=len(x))]
