"""Build one-dimensional resampling matrices: the only place where a resampling is defined.

Scope: taps, scale, method, gain and phase. Not here: applying a matrix to an array (see `arrays`), the filters (see
`filters`), padding and stride (see `geometry`). Imports NumPy; a design imports SciPy.
Derivation: docs/mathematics.md, "A resampling is a matrix".
"""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from ..messages.arguments import check_number, short
from ..text import few
from .filters import Filter, interpolation_filter
from .least_squares import filter_taps, near_taps, optimal_columns
from .limits import MOST_TAPS, check_a, check_entries
from .methods import (
    GAINS,
    GRID_METHODS,
    KEYS_A,
    SMOOTHNESS,
    TAPS_RULES,
    Alias,
    Gain,
    GridMethod,
    KernelMethod,
    TapsRule,
    canonical_method,
)

Array = NDArray[np.float64]


_TAPS_REACH = 16  # old samples that a number of taps may reach beyond twice the kernel, on either side
_CLOSE = 1e-9  # positions are quotients of small numbers: equality up to rounding
_NO_GAIN = 1e-3  # a column whose sum is smaller cannot be normalised: its taps would become huge
_FILTER_REACH = 4  # old samples that the shift-invariant filter spans: 4 * scale + 1 taps
_OPTIMAL_REACH = 2.0  # old samples on either side that an optimal grid tap may use, as many as Keys' cubic


def kernel_taps(
    k: int,
    scale: float,
    method: KernelMethod | Alias = "optimal",
    taps: int | TapsRule | None = None,
    phase: float = 0.0,
) -> int:
    """Number of taps that `kernel_operator` returns: the rule behind its argument `taps`.

    Parameters
    ----------
    k, scale, method, taps, phase
        As for `kernel_operator`.

    Examples
    --------
    >>> [kernel_taps(3, s, "cubic") for s in (1, 2, 4)], [kernel_taps(3, s) for s in (1, 2, 4)]
    ([3, 11, 23], [3, 5, 9])
    """
    count = _count_taps(k, scale, canonical_method(method), taps, phase)
    if count > MOST_TAPS:
        raise RekernelError(f"k={k}, scale={scale:g}, taps={taps!r} ask for {count} taps; {MOST_TAPS} is the limit")
    return count


def _count_taps(k: int, scale: float, method: str, taps: int | str | None, phase: float) -> int:
    _check_kernel_arguments(k, scale, phase)
    if taps is None:
        taps = "same-extent" if method == "optimal" else "full"
    if _is_whole(taps):
        if taps < 1:
            raise RekernelError(f"taps={taps} is not a number of taps; pass 1 or more, or {' or '.join(TAPS_RULES)}")
        most = math.ceil(max(scale, 1.0) * 2 * (k - 1 + _TAPS_REACH)) + 1
        if taps > most:  # the design of thousands takes seconds for each kernel
            raise RekernelError(
                f"taps={taps} for k={k}, scale={scale:g}: no method needs more than {most} taps; pass fewer, or "
                f"{' or '.join(TAPS_RULES)}"
            )
        return int(taps)
    if taps not in TAPS_RULES:
        raise RekernelError(f"taps={taps!r} is neither a number nor one of {', '.join(TAPS_RULES)}")
    if scale == 1 and phase == 0:
        return k
    extent = scale * (k - 1) + 1
    if method == "optimal-filter":
        if taps == "same-extent":
            raise RekernelError(
                "method='optimal-filter' needs taps='full' or a number: at the same extent it is dilation"
            )
        return _nearest_count(extent + _FILTER_REACH * scale, odd=k % 2 == 1)
    if taps == "same-extent" or method == "dilate":
        return _nearest_count(extent, odd=k % 2 == 1)
    # Old taps coincide with new taps only where both lattices have the same centre.
    whole = abs(extent - round(extent)) < _CLOSE
    odd = k % 2 == 1 or (whole and round(extent) % 2 == 1)
    shape = interpolation_filter("linear" if method == "optimal" else method, scale)
    reach = scale * ((k - 1) / 2 + shape.radius)
    # The first sample that is left out must lie where the filter is zero: at its edge, or beyond it for the closed box.
    half = reach + abs(phase) - 1 + (_CLOSE if shape.closed else -_CLOSE)
    return max(1, 2 * math.ceil(half) + 1) if odd else max(2, 2 * math.ceil(half + 0.5))


def kernel_operator(
    k: int,
    scale: float,
    method: KernelMethod | Alias = "optimal",
    *,
    taps: int | TapsRule | None = None,
    gain: Gain = "dc",
    phase: float = 0.0,
    a: float = KEYS_A,
    smoothness: float = SMOOTHNESS,
) -> Array:
    """Matrix that turns `k` old taps into the taps of the same filter `scale` times larger.

    The kernel slides over the input: its taps are centred, and it is zero outside them. Old tap j lies at
    u_j = j - (k-1)/2, new tap i at v_i = (i - (taps-1)/2 + phase) / scale, and R[i, j] = phi(v_i - u_j).

    Parameters
    ----------
    k : int
        Old taps, >= 1.
    scale : float
        New samples per old one, > 0; below 1 the kernel shrinks, antialiased.
    method : {'optimal', 'optimal-filter', 'cubic', 'linear', 'lanczos3', 'nearest', 'area', 'dilate'}
        'optimal' is our least-squares design for the given taps. 'optimal-filter' is its shift-invariant variant: one
        designed filter for every tap, for whole scales. 'dilate' inserts zeros and needs whole positions. The others
        interpolate. 'bilinear', 'trilinear', 'bicubic' and 'tricubic' are aliases.
    taps : int, 'full', 'same-extent' or None
        'full' keeps the whole support of the interpolation ('optimal' has no support of its own and takes linear's).
        'same-extent' is scale * (k-1) + 1, rounded to odd where k is odd. None is 'same-extent' for 'optimal'
        and 'full' otherwise, since a truncated interpolation loses its gain.
    gain : {'dc', 'ratio', 'none'}
        'dc' makes every column sum to 1: each old tap keeps its response to a constant.
        'ratio' divides the interpolated values by `scale` (the scalar of arXiv 2605.08698). 'none' leaves them.
    phase : float
        Shift of the new taps in new samples; `geometry.conv_geometry` computes it for a layer.
    a : float
        Parameter of Keys' cubic: -1/2 by default, torch uses -3/4.
    smoothness : float in [0, 1)
        Weight of the stop band in 'optimal' and 'optimal-filter'.

    Returns
    -------
    R : (taps, k) ndarray, float64, whatever the weights' dtype

    Raises
    ------
    RekernelError
        For arguments outside these sets, for a dilation to positions between samples, and for gain 'dc' where
        no new tap lies within the filter around an old tap.

    Notes
    -----
    Source of the interpolated kernel and its coefficient: arXiv 2605.08698; gain 'dc', `phase` and 'optimal' are ours.

    Examples
    --------
    >>> R = kernel_operator(3, 2.0, "linear")
    >>> R.shape, R.sum(axis=0).tolist()
    ((7, 3), [1.0, 1.0, 1.0])
    >>> kernel_operator(3, 2.0, "linear", gain="none")[:, 1].tolist()
    [0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    method = canonical_method(method)
    _check_gain(gain)
    check_a(a)
    _check_smoothness(smoothness)
    count = kernel_taps(k, scale, method, taps, phase)
    check_entries(count, k, f"kernel_operator(k={short(k)}, scale={short(scale)})")
    if scale == 1 and phase == 0 and (count - k) % 2 == 0 and count >= k:
        return np.eye(count, k, -(count - k) // 2)
    old = _centred(k)
    positions = _centred(count, phase)  # in new samples
    if method == "optimal" and k > 1:
        columns = optimal_columns(count, scale * old - positions[0], scale, smoothness=smoothness)
        return columns * (scale if gain == "none" else 1.0)
    if method in ("optimal", "optimal-filter"):  # a single tap is its own filter: the blur of the factored form
        return _shift_invariant(k, scale, count, phase, smoothness) * (scale if gain == "none" else 1.0)
    if method == "dilate":
        inserted = _zero_insertion(positions, scale * old, scale)
        return inserted / scale if gain == "ratio" else inserted
    values = _values(positions / scale, old, interpolation_filter(method, scale, a=a))
    what = f"kernel_operator(k={k}, scale={scale:g}, method={method!r}, taps={count}, phase={phase:g})"
    return _with_gain(values, scale, gain, what)


def grid_operator(
    n: int,
    n_new: int,
    method: GridMethod | Alias = "optimal",
    *,
    gain: Gain = "dc",
    a: float = KEYS_A,
    smoothness: float = SMOOTHNESS,
) -> Array:
    """Matrix that turns values on `n` pixels into values on `n_new` pixels of the same finite image.

    Pixels have half-pixel centres. When the grid grows, edges are clamped, as
    torch.nn.functional.interpolate(align_corners=False) does. When the grid shrinks, the antialiased filter is
    truncated and renormalised at the edge, as antialias=True does there.

    Parameters
    ----------
    n, n_new : int
        Number of pixels before and after, >= 1.
    method : {'optimal', 'cubic', 'linear', 'lanczos3', 'nearest', 'area', 'pinv-nearest', 'pinv-linear', 'pinv-cubic'}
        'pinv-x' is pinv(B.T) for the resize B by x: it preserves the response to inputs resized by B
        (FlexiViT, arXiv 2212.08013, eq. 5).
    gain : {'dc', 'ratio', 'none'}
        'dc' is for weights that *read* the image: columns sum to 1. 'none' is for *values* on the image (position
        embeddings, outputs): rows sum to 1. 'ratio' is 'none' divided by n_new / n. The pseudo-inverse has a gain of
        its own and ignores this argument.
    a, smoothness
        As for `kernel_operator`.

    Returns
    -------
    R : (n_new, n) ndarray, float64

    Raises
    ------
    RekernelError
        For arguments outside these sets. 'dilate' is not among the methods: a grid has no zeros between its pixels.

    Examples
    --------
    >>> grid_operator(2, 4, "linear", gain="none").tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    >>> grid_operator(16, 32).sum(axis=0).round(12).tolist() == [1.0] * 16
    True
    """
    method = canonical_method(method, GRID_METHODS)
    _check_gain(gain)
    check_a(a)
    _check_smoothness(smoothness)
    for name, size in (("n", n), ("n_new", n_new)):
        if not _is_whole(size) or size < 1:
            raise RekernelError(f"{name}={size!r} is not a grid size; pass a whole number of pixels, 1 or more")
    check_entries(n_new, n, f"grid_operator({n}, {n_new})")
    if n == n_new:
        return np.eye(n)
    if method.startswith("pinv-"):
        plain = canonical_method(method.removeprefix("pinv-"), GRID_METHODS)
        resize = grid_operator(n, n_new, plain, gain="none", a=a)
        return np.asarray(np.linalg.pinv(resize.T), dtype=np.float64)
    scale = n_new / n
    what = f"grid_operator({n}, {n_new}, {method!r})"
    if method == "optimal":
        design = _optimal_grid(n, n_new, smoothness)
        # The design has columns that sum to 1. For values on the image, rows must sum to 1 instead.
        return design if gain == "dc" else _with_gain(design / design.sum(axis=1, keepdims=True), scale, gain, what)
    if method == "nearest" and scale > 1:
        values = np.zeros((n_new, n))
        i = np.arange(n_new)
        values[i, (2 * i + 1) * n // (2 * n_new)] = 1.0  # integer arithmetic, so that rounding decides no tie
    else:
        values = _grid_values(n, n_new, interpolation_filter(method, scale, a=a))
    return _with_gain(values, scale, gain, what)


def _shift_invariant(k: int, scale: float, count: int, phase: float, smoothness: float) -> Array:
    """One designed filter, shifted to every old tap; equal to a blur before a dilated convolution."""
    step, length = round(scale), count - round(scale) * (k - 1)
    if k > 1 and (abs(scale - step) > _CLOSE or length < 1):
        raise RekernelError(
            f"method='optimal-filter' needs a whole scale and at least scale * (k-1) + 1 taps, "
            f"not scale={scale:g} and taps={count} for k={k}"
        )
    taps = filter_taps(_centred(length, phase), scale, smoothness=smoothness)
    matrix = np.zeros((count, k))
    for j in range(k):
        matrix[step * j : step * j + length, j] = taps
    return matrix


def _centred(count: int, shift: float = 0.0) -> Array:
    return np.asarray(np.arange(count) - (count - 1) / 2 + shift, dtype=np.float64)


def _values(new: Array, old: Array, shape: Filter) -> Array:
    """phi(v_i - u_j), each row divided by the sum of the filter over the infinite lattice of old samples."""
    reach = math.ceil(shape.radius + np.ptp(new) + np.ptp(old)) + 1
    lattice = old[0] + np.arange(-reach, reach + 1)
    total = shape.phi(new[:, None] - lattice).sum(axis=1, keepdims=True)
    return np.asarray(shape.phi(new[:, None] - old) / total, dtype=np.float64)


def _zero_insertion(positions: Array, targets: Array, scale: float) -> Array:
    distance = np.abs(positions[:, None] - targets)
    hit = distance < 1e-6
    if not hit.any(axis=0).all():
        raise RekernelError(
            f"method='dilate' cannot move {len(targets)} taps to {few([f'{t:.4g}' for t in targets])} on "
            f"{len(positions)} samples at {positions[0]:g} to {positions[-1]:g}: dilation needs whole positions inside "
            f"the kernel; use a whole scale, phase=0 and taps='full', or another method"
        )
    return hit.astype(np.float64)


def _grid_values(n: int, n_new: int, shape: Filter) -> Array:
    new = np.asarray((np.arange(n_new) + 0.5) * (n / n_new) - 0.5, dtype=np.float64)
    reach = math.ceil(shape.radius) + 1
    lattice = np.arange(-reach, n + reach)
    weights = shape.phi(new[:, None] - lattice)
    if n_new > n:  # clamp: samples outside the image read the edge pixel
        inside = np.clip(lattice, 0, n - 1)
        values = weights @ (inside[:, None] == np.arange(n)).astype(np.float64)
    else:
        values = weights[:, reach : reach + n]
    return np.asarray(values / values.sum(axis=1, keepdims=True), dtype=np.float64)


def _optimal_grid(n: int, n_new: int, smoothness: float) -> Array:
    """Designed columns; each may use the new pixels near its own place."""
    scale = n_new / n
    targets = np.asarray((np.arange(n) + 0.5) * scale - 0.5, dtype=np.float64)
    matrix = np.zeros((n_new, n))
    for rows, which in near_taps(n_new, targets, _OPTIMAL_REACH * max(scale, 1.0)):
        matrix[rows, which] = optimal_columns(len(rows), targets[which] - rows[0], scale, smoothness=smoothness)
    return matrix


def _with_gain(values: Array, scale: float, gain: str, what: str) -> Array:
    if gain == "none":
        return values
    if gain == "ratio":
        return values / scale
    sums = values.sum(axis=0)
    if (sums < _NO_GAIN).any():
        worst = int(np.argmin(np.round(sums, 12)))  # symmetric taps differ in the last bit, which depends on the CPU
        raise RekernelError(
            f"{what}: old tap {worst} keeps a gain of {sums[worst]:.3g}, so gain='dc' cannot restore it. "
            f"Use more taps (taps='full'), or gain='ratio'."
        )
    return np.asarray(values / sums, dtype=np.float64)


def _check_kernel_arguments(k: int, scale: float, phase: float) -> None:
    if not _is_whole(k) or k < 1:
        raise RekernelError(f"k={short(k)} is not a kernel size; pass a whole number of taps, 1 or more")
    if not _is_finite(scale) or scale <= 0:
        raise RekernelError(f"scale={short(scale)} must be a finite number above 0")
    if not _is_finite(phase):
        raise RekernelError(f"phase={phase!r} must be a finite number of new samples")


def _is_whole(x: object) -> TypeGuard[int]:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def _is_finite(x: object) -> TypeGuard[float]:
    return isinstance(x, int | float | np.integer | np.floating) and math.isfinite(x)


def _check_gain(gain: str) -> None:
    if gain not in GAINS:
        raise RekernelError(f"gain={gain!r} is not one of {', '.join(GAINS)}")


def _check_smoothness(smoothness: float) -> None:
    check_number(smoothness, "smoothness", "0.01")
    if not 0 <= smoothness < 1:
        raise RekernelError(f"smoothness={smoothness!r} must be at least 0 and below 1")


def _nearest_count(extent: float, *, odd: bool) -> int:
    if odd:
        return max(1, 2 * math.floor((extent - 1) / 2 + 0.5 + _CLOSE) + 1)
    return max(1, math.floor(extent + 0.5 + _CLOSE))
