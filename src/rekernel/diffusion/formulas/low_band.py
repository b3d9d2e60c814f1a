"""Reduce a grid to its low band, enlarge it again, and compute the effect on noise.

Scope: axes, factors and the two operators D and U of upsample guidance. Not here: noise schedules (see `schedules`) and
the guided image (see `guided`).
Derivation: docs/guidance.md, "Reducing and enlarging".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ...errors import RekernelError
from ...resampling.arrays import resample
from ...resampling.methods import GRID_METHODS, canonical_method
from ...resampling.operators import grid_operator

Reduce = Literal["area", "linear", "cubic", "lanczos3"]
Enlarge = Literal["nearest", "linear", "cubic"]
REDUCE: tuple[Reduce, ...] = get_args(Reduce)
ENLARGE: tuple[Enlarge, ...] = get_args(Enlarge)


def grid_factors(factor: float | Sequence[float], default_axes: int = 2) -> tuple[float, ...]:
    """One factor per grid axis; a single number is repeated for `default_axes` axes.

    Raises
    ------
    RekernelError
        For a factor below 1.

    Examples
    --------
    >>> grid_factors(2), grid_factors((1, 2, 2))
    ((2.0, 2.0), (1.0, 2.0, 2.0))
    """
    factors = tuple(map(float, factor)) if isinstance(factor, Sequence) else (float(factor),) * default_axes
    if not factors or not all(1 <= f < math.inf for f in factors):
        raise RekernelError(f"factor={factor} must be a number of at least 1, or one such number per grid axis")
    return factors


@dataclass(frozen=True)
class Split:
    """D and U of one grid: from `size` pixels to `low` pixels and back, with DU = 1.

    D averages the pixels that overlap each larger pixel, weighted by the overlap, or reduces by `reduce`. U is the
    pseudo-inverse of D, which is nearest enlargement for whole factors, or the interpolation `enlarge` adjusted such
    that DU = 1.

    size, low : pixels per grid axis, before and after; the grid is the last axes of an array
    reduce : {'area', 'linear', 'cubic', 'lanczos3'}
        'area' is the average; the others are the adjoint of that interpolation.
    enlarge : {'nearest', 'linear', 'cubic'}
        'nearest' is the pseudo-inverse of D.

    Examples
    --------
    >>> split = Split((4, 4), (2, 2))
    >>> split.gain, split.reduce_grid(np.eye(4)).tolist()
    (0.5, [[0.5, 0.0], [0.0, 0.5]])
    >>> split.enlarge_grid(np.ones((3, 2, 2))).shape
    (3, 4, 4)
    """

    size: tuple[int, ...]
    low: tuple[int, ...]
    reduce: str = "area"
    enlarge: str = "nearest"

    def __post_init__(self) -> None:
        if self.reduce not in REDUCE or self.enlarge not in ENLARGE:
            raise RekernelError(
                f"reduce={self.reduce!r}, enlarge={self.enlarge!r}: "
                f"take one of {', '.join(REDUCE)}, and one of {', '.join(ENLARGE)}"
            )
        if len(self.size) != len(self.low) or not all(1 <= m <= n for n, m in zip(self.size, self.low, strict=True)):
            raise RekernelError(f"a grid of {self.size} pixels cannot be reduced to {self.low}")

    @property
    def factors(self) -> tuple[float, ...]:
        """Old pixels per new pixel, for each axis."""
        return tuple(n / m for n, m in zip(self.size, self.low, strict=True))

    @property
    def gain(self) -> float:
        """Factor by which D multiplies the standard deviation of white noise: 1/m for an m x m average.

        The root mean square over the pixels, computed from the matrices of D: exact for non-integer factors and other
        filters too.
        """
        axes = zip(self.size, self.low, strict=True)
        return math.sqrt(math.prod(_row_power(n, m, self.reduce) for n, m in axes))

    def low_input(self, x: Any) -> Any:
        """Input of the low-resolution pass, up to a scale: D x."""
        return self.reduce_grid(x)

    def reduce_grid(self, x: Any) -> Any:
        """D x: (..., *size) to (..., *low); NumPy or PyTorch, dtype kept."""
        self._check(x, self.size)
        return _block_means(x, self.low) if self._in_blocks else _product(x, self._matrices(_reduction))

    def enlarge_grid(self, y: Any) -> Any:
        """U y: (..., *low) to (..., *size); D U y = y."""
        self._check(y, self.low)
        blocks = self._in_blocks and self.enlarge == "nearest"
        return _repeated(y, self.size, self.low) if blocks else _product(y, self._matrices(_enlargement))

    def at(self, size: Sequence[int]) -> Split:
        """The same reduction for another grid of the same picture: a feature map, a mask.

        A grid with fewer axes lacks the first ones (the frames of a video, folded into the batch); these must not be
        reduced. A network makes a feature map by halving the image, so the low size of a map comes from halving the low
        image as often.
        """
        missing = len(self.size) - len(size)
        if missing < 0 or self.size[:missing] != self.low[:missing]:
            raise RekernelError(
                f"a grid of {tuple(size)} pixels lacks an axis that {self.size} -> {self.low} reduces: frames in the "
                f"batch cannot be reduced with an image's; sample without the input that has them"
            )
        low = map(_halved_alike, size, self.size[missing:], self.low[missing:])
        return Split(tuple(size), tuple(low), self.reduce, self.enlarge)

    @property
    def _in_blocks(self) -> bool:
        return self.reduce == "area" and all(n % m == 0 for n, m in zip(self.size, self.low, strict=True))

    def _matrices(self, make: Callable[..., NDArray[np.float64]]) -> dict[int, NDArray[np.float64]]:
        options = (self.reduce,) if make is _reduction else (self.reduce, self.enlarge)
        axes = len(self.size)
        pairs = enumerate(zip(self.size, self.low, strict=True))
        return {i - axes: make(n, m, *options) for i, (n, m) in pairs if n != m}

    def _check(self, x: Any, size: tuple[int, ...]) -> None:
        if tuple(x.shape[-len(size) :]) != size:
            raise RekernelError(f"an array of shape {tuple(x.shape)} does not end in the grid {size}")


def block_split(size: Sequence[int], factor: float | Sequence[float], **operators: str) -> Split:
    """The split by `factor`; where the factor does not divide the size, to the nearest whole number of pixels.

    Examples
    --------
    >>> block_split((9, 12), 2).low
    (4, 6)
    """
    factors = grid_factors(factor, len(size))
    if len(factors) != len(size):
        raise RekernelError(f"factor={factor} has {len(factors)} entries for a grid of {len(size)} axes")
    return Split(tuple(size), tuple(max(1, round(n / f)) for n, f in zip(size, factors, strict=True)), **operators)


def _halved_alike(n: int, full: int, low: int) -> int:
    """Low size of a map of `n` pixels: `low` halved as often as `full` must be to give `n`, odd sizes rounded up.

    Examples
    --------
    >>> _halved_alike(9, 18, 9), _halved_alike(5, 18, 9), _halved_alike(144, 18, 9)
    (5, 3, 72)
    """
    scale = low / full
    halved = full
    while halved > n:
        halved, low = -(-halved // 2), -(-low // 2)
    return low if halved == n else max(1, round(n * scale))


def _block_means(x: Any, low: tuple[int, ...]) -> Any:
    xp = array_namespace(x)
    lead = tuple(x.shape[: x.ndim - len(low)])
    blocks = tuple(n for m, full in zip(low, x.shape[x.ndim - len(low) :], strict=True) for n in (m, full // m))
    axes = tuple(range(len(lead) + 1, len(lead) + 2 * len(low), 2))
    return xp.mean(xp.reshape(x, (*lead, *blocks)), axis=axes)


def _repeated(y: Any, size: tuple[int, ...], low: tuple[int, ...]) -> Any:
    xp = array_namespace(y)
    lead = tuple(y.shape[: y.ndim - len(low)])
    ones = tuple(n for m in low for n in (m, 1))
    blocks = tuple(k for n, m in zip(size, low, strict=True) for k in (m, n // m))
    return xp.reshape(xp.broadcast_to(xp.reshape(y, (*lead, *ones)), (*lead, *blocks)), (*lead, *size))


def _product(x: Any, matrices: dict[int, NDArray[np.float64]]) -> Any:
    return resample(x, matrices) if matrices else x


@lru_cache(maxsize=256)
def _row_power(size: int, low: int, method: str) -> float:
    """Variance of white noise of variance 1 after its reduction along one axis, averaged over the pixels."""
    return 1.0 if size == low else float(np.mean(np.sum(_reduction(size, low, method) ** 2, axis=1)))


@lru_cache(maxsize=64)
def _reduction(size: int, low: int, method: str) -> NDArray[np.float64]:
    """D along one axis: a (low, size) matrix whose rows sum to 1."""
    if method == "area":
        edges = np.linspace(0, size, low + 1)
        left, right = edges[:-1, None], edges[1:, None]
        pixel = np.arange(size)
        matrix = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    else:
        # The adjoint of an interpolation is its anti-aliased reduction.
        matrix = grid_operator(low, size, canonical_method(method, GRID_METHODS), gain="none").T
    result: NDArray[np.float64] = matrix / matrix.sum(axis=1, keepdims=True)
    return result


@lru_cache(maxsize=64)
def _enlargement(size: int, low: int, reduce: str, enlarge: str) -> NDArray[np.float64]:
    """U along one axis: a (size, low) matrix, the right inverse of D whose columns span the interpolation `enlarge`."""
    down = _reduction(size, low, reduce)
    method = canonical_method(enlarge, GRID_METHODS)
    shape = down.T if method == "nearest" else grid_operator(low, size, method, gain="none")
    result: NDArray[np.float64] = shape @ np.linalg.inv(down @ shape)
    return result
