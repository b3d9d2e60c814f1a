"""Compute upsample guidance: the guided image, its weight over time, and a prediction guided octave by octave.

Scope: predictions, times and splits, as arrays of NumPy or PyTorch; a network is a function here. Not here: calling a
network of diffusers (see `guidance/hook`).
Source: arXiv 2404.01709 for one level (the residual term and the window of its weight). Nested levels are our
derivation: docs/guidance.md, "Octave by octave".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace, device

from ...errors import RekernelError
from .low_band import Split, block_split, grid_factors
from .matching import Match, match
from .predictions import slopes
from .schedules import NoiseSchedule


class LowBand(Protocol):
    """Reduction and enlargement between two levels: `low_band.Split` or `blur_band.FilterSplit`."""

    @property
    def size(self) -> tuple[int, ...]: ...
    @property
    def low(self) -> tuple[int, ...]: ...
    @property
    def gain(self) -> float: ...
    def low_input(self, x: Any) -> Any: ...
    def reduce_grid(self, x: Any) -> Any: ...
    def enlarge_grid(self, y: Any) -> Any: ...


def guided_x0(
    x0: Any,
    x0_low: Any,
    weight: Any,
    factor: float | Sequence[float],
    *,
    reduce: Callable[[Any], Any] | None = None,
    enlarge: Callable[[Any], Any] | None = None,
) -> Any:
    """Move the low band of an image towards the image of the low-resolution pass: x0 + w U[x0_low - D x0].

    Parameters
    ----------
    x0 : (..., *grid) array
        The clean image predicted at full resolution.
    x0_low : (..., *low grid) array
        The clean image predicted from the reduced noisy image.
    weight : number
        0 leaves `x0` unchanged; 1 replaces its low band.
    factor : number, or one per grid axis
        Ratio of the two grids; a single number applies to the last two axes.
    reduce, enlarge : callables, optional
        D and U; block means and nearest enlargement by default.

    Returns
    -------
    array like `x0`

    Raises
    ------
    RekernelError
        Where `x0_low` does not have the grid that D gives.

    Examples
    --------
    >>> x0, low = np.arange(16.0).reshape(4, 4), np.zeros((2, 2))
    >>> guided = guided_x0(x0, low, 1.0, 2)
    >>> guided[:2, :2].tolist(), guided[:2, :2].mean()
    ([[-2.5, -1.5], [1.5, 2.5]], np.float64(0.0))
    """
    factors = grid_factors(factor)
    size = tuple(x0.shape[-len(factors) :])
    split = block_split(size, factors)
    reduced = (reduce or split.reduce_grid)(x0)
    if tuple(reduced.shape) != tuple(x0_low.shape):
        raise RekernelError(
            f"x0_low has shape {tuple(x0_low.shape)}, but x0 of shape {tuple(x0.shape)} "
            f"reduces by {factor} to {tuple(reduced.shape)}"
        )
    return x0 + weight * (enlarge or split.enlarge_grid)(x0_low - reduced)


@dataclass(frozen=True)
class Window:
    """The weight of guidance over time: w(t) = theta where guidance acts, else 0.

    theta : the weight
    eta : share of the schedule, counted from its noisy end, in which guidance acts: t >= (1 - eta) T
    start, stop : noisiest and cleanest time at which guidance acts, in the network's unit of time
    log_snr : lowest and highest log-SNR at which guidance acts

    Examples
    --------
    >>> from .schedules import FlowSchedule
    >>> Window(1.5, eta=0.6).weight(FlowSchedule(), [1.0, 0.4, 0.39]).tolist()
    [1.5, 1.5, 0.0]
    """

    theta: float = 1.0
    eta: float = 1.0
    start: float = math.inf
    stop: float = -math.inf
    log_snr: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not _number(self.theta) or not math.isfinite(self.theta):
            raise RekernelError(f"theta={self.theta!r} must be a finite number; 1 replaces the low band")
        if not _number(self.eta) or not 0 <= self.eta <= 1:
            raise RekernelError(f"eta={self.eta!r} must be a number between 0 (never) and 1 (in every step)")
        for name, time in (("start", self.start), ("stop", self.stop)):
            if not _number(time) or math.isnan(time):
                raise RekernelError(f"{name}={time!r} must be a number: a time of the network")
        log_snr: Any = self.log_snr
        pair = isinstance(log_snr, Sequence) and not isinstance(log_snr, str) and len(log_snr) == 2
        if not pair or not all(map(_number, log_snr)) or not log_snr[0] <= log_snr[1]:
            raise RekernelError(f"log_snr={log_snr!r} must be two numbers, (lowest, highest)")

    def weight(self, schedule: NoiseSchedule, t: Any) -> Any:
        """The weight at each time in `t`, float64.

        Raises
        ------
        RekernelError
            Where `start` is cleaner than `stop` in this schedule; in some, time 0 is noise.
        """
        t = np.asarray(t, np.float64)
        snr = schedule.log_snr(t)
        acts = (schedule.fraction(t) >= 1 - self.eta - 1e-9) & (self.eta > 0)
        later = 1.0 if schedule.end >= schedule.start else -1.0  # the direction in which noise grows
        start, stop = (later * n if math.isfinite(n) else n for n in (self.start, self.stop))
        if stop > start:
            raise RekernelError(f"start={self.start} is cleaner than stop={self.stop}; give start= the noisier time")
        acts &= (stop <= later * t) & (later * t <= start) & (self.log_snr[0] <= snr) & (snr <= self.log_snr[1])
        return np.where(acts, self.theta, 0.0)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def octaves(scale: Sequence[float], levels: int | None = None) -> tuple[tuple[float, ...], ...]:
    """Factors of the nested levels, from the trained size upwards: 2 for each level, and the rest for the last one.

    Parameters
    ----------
    scale : one factor per grid axis
    levels : int, optional
        Number of levels; by default as many as are needed to keep every factor at about 2 or below.

    Examples
    --------
    >>> octaves((4.0, 4.0)), octaves((3.0, 3.0)), octaves((1.5, 2.0))
    (((2.0, 2.0), (2.0, 2.0)), ((2.0, 2.0), (1.5, 1.5)), ((1.5, 2.0),))
    >>> octaves((4.0, 4.0), levels=1)
    ((4.0, 4.0),)
    """
    wanted = [max(1, math.ceil(math.log2(s) - 0.1)) if s > 1 else 0 for s in scale]
    if levels is not None and levels < 1:
        raise RekernelError(f"levels={levels} must be at least 1")
    most = max(wanted, default=0)
    count = most if levels is None else min(levels, most)
    per_axis = []
    for s, need in zip(scale, wanted, strict=True):
        steps = min(count, need)
        rest = [s / 2.0 ** (steps - 1)] if steps else []
        per_axis.append([*[2.0] * (steps - 1), *rest, *[1.0] * (count - steps)])
    return tuple(zip(*per_axis, strict=True))


def correction(kind: str, x: Any, prediction: Any, x_low: Any, low: Any, m: Match, split: LowBand) -> Any:
    """The change of the prediction at weight 1, on the full grid: b U[x0_low - D x0].

    For a noise prediction this is U[gain eps_low - D eps], which needs no division by alpha.
    """
    if kind == "epsilon":
        return split.enlarge_grid(split.gain * low - split.reduce_grid(prediction))
    if kind == "sample":
        return split.enlarge_grid(low - split.reduce_grid(prediction))
    a, b = slopes(kind, _like(m.alpha, x), _like(m.sigma, x))
    a_low, b_low = slopes(kind, _like(m.low_alpha, x), _like(m.low_sigma, x))
    x0_low = (low - a_low * x_low) / b_low
    return b * split.enlarge_grid(x0_low - split.reduce_grid((prediction - a * x) / b))


def guided_prediction(
    predict: Callable[[Any, Any, int], Any],
    x: Any,
    t: Any,
    splits: Sequence[LowBand],
    *,
    schedule: NoiseSchedule,
    kind: str,
    window: Window,
) -> Any:
    """A prediction whose low band comes from the level below, itself guided in this way down to the trained size.

    Parameters
    ----------
    predict : callable (x, t, level) -> prediction
        The network; `level` is 0 at the trained size and `len(splits)` at the size of `x`.
    x : (B, C, *grid) array
        Noisy image, scaled as the network's input.
    t : number or (B,) NumPy array
    splits : sequence of LowBand
        Reductions between the levels, from the trained size upwards; empty for no guidance.
    schedule : NoiseSchedule
        Noise schedule of the network.
    kind : str
        What the network predicts, one of `predictions.KINDS`.
    window : Window
        Weight of guidance; where it is 0, the level below is not run.

    Returns
    -------
    array like the prediction; the object itself that `predict` returned where guidance does not act
    """
    prediction = predict(x, t, len(splits))
    if not splits:
        return prediction
    weight = window.weight(schedule, t)
    if not np.any(weight):
        return prediction
    split = splits[-1]
    m = match(schedule, t, split.gain)
    x_low = _like(m.scale, x) * split.low_input(x)
    low = guided_prediction(predict, x_low, m.tau, splits[:-1], schedule=schedule, kind=kind, window=window)
    return prediction + _like(weight, x) * correction(kind, x, prediction, x_low, low, m, split)


def _like(coefficient: Any, x: Any) -> Any:
    """A coefficient to multiply `x` with: a number, or an array with one per sample in the framework of `x`."""
    values = np.asarray(coefficient, np.float64)
    if values.ndim == 0:
        return float(values)
    if np.all(values == values[0]):
        return float(values[0])
    xp = array_namespace(x)
    return xp.reshape(xp.asarray(values, dtype=x.dtype, device=device(x)), (-1, *(1 for _ in x.shape[1:])))


__all__ = ["Split", "Window", "correction", "guided_prediction", "guided_x0", "octaves"]
