"""Compute the kernel distance (KID) between two sets of features, and its uncertainty.

Scope: matrices. Not here: images and features (see `judge_network`). Imports NumPy alone.
Source: arXiv 1801.01401, the squared maximum mean discrepancy for the kernel (x y / F + 1)^3. Unlike the Frechet
distance the estimate has no bias, so it may be negative, and sets of different sizes may be compared.
"""

import numpy as np
from intervals import Measured
from numpy.typing import NDArray

BLOCK = 1000  # rows of a kernel matrix at a time


def own_mean(x: NDArray[np.floating]) -> float:
    """The kernel's mean over all pairs of different rows of (N, F)."""
    total = sum(float(_kernel(part, x).sum()) for part in _blocks(x))
    own = float((((x * x).sum(axis=1) / x.shape[1] + 1) ** 3).sum())
    return (total - own) / (len(x) * (len(x) - 1))


def kernel_distance(
    real: NDArray[np.floating], made: NDArray[np.floating], real_mean: float, *, resamples: int = 200, seed: int = 0
) -> Measured:
    """Distance between (N, F) and (M, F); `real_mean` is `own_mean(real)`, which is worth keeping.

    The interval is the bootstrap's over the generated set; a row drawn twice makes no pair with itself.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(300, 4))
    >>> near, far = (kernel_distance(x[:200], x[200:] + shift, own_mean(x[:200])) for shift in (0, 1))
    >>> abs(near.value) < 0.1 < far.low
    True
    """
    across = np.concatenate([_kernel(part, real).mean(axis=1) for part in _blocks(made)])
    pairs = _kernel(made, made)
    np.fill_diagonal(pairs, 0)
    n = len(made)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    counts = np.concatenate([np.ones((1, n)), drawn])  # the first is the set itself
    own = ((counts @ pairs) * counts).sum(axis=1) / (n**2 - (counts**2).sum(axis=1))
    distances = own + real_mean - 2 * counts @ across / n
    low, high = np.quantile(distances[1:], [0.025, 0.975])
    return Measured(float(distances[0]), float(low), float(high))


def _kernel(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    return (np.asarray(a, np.float64) @ np.asarray(b, np.float64).T / a.shape[1] + 1) ** 3


def _blocks(x: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    return [x[first : first + BLOCK] for first in range(0, len(x), BLOCK)]
