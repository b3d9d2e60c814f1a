"""Define noise schedules: the log-SNR of a noisy image at each time, and the time of each log-SNR.

Scope: log-SNR as a function of time, its inverse, and the scale of the network's input. Not here: images (see
`low_band`), reading a scheduler of diffusers (see `denoiser/scheduler_config`).
The noisy image at time t is `alpha x0 + sigma noise`; log-SNR is log(alpha^2 / sigma^2). NumPy float64 throughout.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import RekernelError

Floats = NDArray[np.float64]
_LEAST, _MOST = 1e-12, 1 - 1e-12  # bounds of alpha-bar: log-SNR must be finite to be interpolated


class NoiseSchedule(ABC):
    """A noise schedule: the relation of time and log-SNR.

    Times are in the unit of the network's time input. `end` is the noisiest time, `start` the cleanest.
    """

    start: float = 0.0
    end: float = 1.0

    @abstractmethod
    def log_snr(self, t: ArrayLike) -> Floats:
        """Logarithm of signal power over noise power at time `t`; decreases with time."""

    @abstractmethod
    def time(self, log_snr: ArrayLike) -> Floats:
        """The time with that log-SNR, between `start` and `end`."""

    def alpha(self, log_snr: ArrayLike) -> Floats:
        """Scale of the signal in the network's input; by default for a variance-preserving process."""
        return np.asarray(np.sqrt(_sigmoid(np.asarray(log_snr, np.float64))))

    def sigma(self, log_snr: ArrayLike) -> Floats:
        """Standard deviation of the noise in the network's input."""
        return np.asarray(np.sqrt(_sigmoid(-np.asarray(log_snr, np.float64))))

    def fraction(self, t: ArrayLike) -> Floats:
        """Position of `t` in the schedule: 0 at `start`, the clean end, and 1 at `end`, the noisy one."""
        return (np.asarray(t, np.float64) - self.start) / (self.end - self.start)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class DiscreteSchedule(NoiseSchedule):
    """A table of alpha-bar by integer timestep, as DDPM has it; log-SNR is interpolated linearly in between.

    Parameters
    ----------
    alphas_cumprod : (T,) array
        Decreasing, each in [0, 1].
    snap : bool
        Round matched times to whole timesteps, for networks that look up times in a table.

    Examples
    --------
    >>> betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    >>> sd = DiscreteSchedule(np.cumprod(1 - betas))
    >>> sd.time(sd.log_snr([999, 800, 600, 400]) + 2 * np.log(2)).round().astype(int).tolist()
    [874, 631, 394, 204]
    """

    def __init__(self, alphas_cumprod: ArrayLike, *, snap: bool = False) -> None:
        table = np.asarray(alphas_cumprod, np.float64)
        if table.ndim != 1 or len(table) < 2 or np.any(np.diff(table) > 0) or not (table[-1] >= 0 and table[0] <= 1):
            raise RekernelError("alphas_cumprod must be a decreasing table of at least two numbers between 0 and 1")
        table = np.clip(table, _LEAST, _MOST)
        self.table, self.snap = np.log(table) - np.log1p(-table), snap
        self.end = float(len(table) - 1)

    def log_snr(self, t: ArrayLike) -> Floats:
        return np.asarray(np.interp(np.asarray(t, np.float64), np.arange(len(self.table)), self.table))

    def time(self, log_snr: ArrayLike) -> Floats:
        t = np.interp(-np.asarray(log_snr, np.float64), -self.table, np.arange(len(self.table)))
        return np.asarray(np.rint(t) if self.snap else t)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.table)} timesteps{', snapped' if self.snap else ''})"


class VPSchedule(NoiseSchedule):
    """The continuous variance-preserving process with linear beta on [0, 1]."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min, self.beta_max = beta_min, beta_max

    def log_snr(self, t: ArrayLike) -> Floats:
        t = np.asarray(t, np.float64)
        area = self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2
        return -np.log(np.maximum(np.expm1(area), _LEAST))

    def time(self, log_snr: ArrayLike) -> Floats:
        area = np.logaddexp(0.0, -np.asarray(log_snr, np.float64))
        slope = self.beta_max - self.beta_min
        # The positive root of the quadratic in log_snr(), in the form without cancellation for small areas.
        t = 2 * area / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * slope * area))
        return np.clip(t, self.start, self.end)


class SigmaSchedule(NoiseSchedule):
    """Variance exploding: the network's input is `x0 + sigma noise`, and its time is sigma."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        self.start, self.end = sigma_min, sigma_max

    def log_snr(self, t: ArrayLike) -> Floats:
        return -2 * np.log(np.maximum(np.asarray(t, np.float64), 1e-30))

    def time(self, log_snr: ArrayLike) -> Floats:
        return np.exp(-np.asarray(log_snr, np.float64) / 2)  # not clamped: any sigma is a time

    def alpha(self, log_snr: ArrayLike) -> Floats:
        return np.ones_like(np.asarray(log_snr, np.float64))

    def sigma(self, log_snr: ArrayLike) -> Floats:
        return self.time(log_snr)

    def fraction(self, t: ArrayLike) -> Floats:
        """Position of `t` in the schedule, linear in the logarithm of sigma: 0 at `start`, 1 at `end`."""
        span = math.log(self.end / self.start)
        return np.log(np.maximum(np.asarray(t, np.float64), 1e-30) / self.start) / span


class EDMSchedule(NoiseSchedule):
    """EDM's preconditioning: input `(x0 + sigma noise) / sqrt(sigma^2 + sigma_data^2)`, time `log(sigma) / 4`."""

    def __init__(self, sigma_data: float = 0.5, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        self.sigma_data = sigma_data
        self.start, self.end = math.log(sigma_min) / 4, math.log(sigma_max) / 4

    def log_snr(self, t: ArrayLike) -> Floats:
        return -8 * np.asarray(t, np.float64)

    def time(self, log_snr: ArrayLike) -> Floats:
        return -np.asarray(log_snr, np.float64) / 8

    def alpha(self, log_snr: ArrayLike) -> Floats:
        return 1 / np.sqrt(np.exp(-np.asarray(log_snr, np.float64)) + self.sigma_data**2)

    def sigma(self, log_snr: ArrayLike) -> Floats:
        return np.exp(-np.asarray(log_snr, np.float64) / 2) * self.alpha(log_snr)


class FlowSchedule(NoiseSchedule):
    """Rectified flow: `(1 - s) x0 + s noise`, with `s = shift u / (1 + (shift - 1) u)` at time `t = times u`.

    Where time runs the other way, `t = times (1 - u)`.

    Parameters
    ----------
    shift : float
        Shift between s and the network's time input. It is 1 for Stable Diffusion 3 and Flux, whose time input is s
        itself. A scheduler's shift chooses which s are visited and is not this parameter.
    times : float
        The largest time: 1 or 1000.
    reverse : bool
        Whether time 0 is pure noise and the largest time the image, as for Lumina 2, Z-Image and Mochi.

    Examples
    --------
    >>> flow = FlowSchedule()
    >>> round(flow.time(flow.log_snr(0.5) + 2 * np.log(2)).item(), 12)  # t / (t + m (1 - t)) for m = 2
    0.333333333333
    """

    def __init__(self, shift: float = 1.0, times: float = 1.0, *, reverse: bool = False) -> None:
        if not shift > 0 or not times > 0:
            raise RekernelError(f"shift={shift}, times={times}; both must be above 0")
        self.shift, self.times, self.reverse = shift, times, reverse
        self.start, self.end = (times, 0.0) if reverse else (0.0, times)

    def log_snr(self, t: ArrayLike) -> Floats:
        u = np.asarray(t, np.float64) / self.times
        u = np.clip(1 - u if self.reverse else u, _LEAST, _MOST)
        return 2 * (np.log1p(-u) - np.log(u) - math.log(self.shift))

    def time(self, log_snr: ArrayLike) -> Floats:
        noisy = -np.asarray(log_snr, np.float64) / 2 - math.log(self.shift)
        return self.times * _sigmoid(-noisy if self.reverse else noisy)

    def alpha(self, log_snr: ArrayLike) -> Floats:
        return _sigmoid(np.asarray(log_snr, np.float64) / 2)

    def sigma(self, log_snr: ArrayLike) -> Floats:
        return _sigmoid(-np.asarray(log_snr, np.float64) / 2)

    def __repr__(self) -> str:
        backwards = ", reverse=True" if self.reverse else ""
        return f"{type(self).__name__}(shift={self.shift:g}, times={self.times:g}{backwards})"


def _sigmoid(x: Any) -> Floats:
    result: Floats = np.exp(-np.logaddexp(0.0, -x))
    return result
