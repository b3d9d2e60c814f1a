"""Compute the time and the scale of a reduced noisy image, the two quantities on which upsample guidance rests.

Scope: signal-to-noise ratios. Not here: reducing an image (see `low_band`) and the guided image (see `guided`).
Source: arXiv 2404.01709; the exponent (a factor m divides the noise's variance by m^2, not m) by our derivation,
docs/guidance.md, "Matched time and power".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import RekernelError
from .low_band import grid_factors
from .schedules import NoiseSchedule


def matched_time(log_snr: ArrayLike, t: ArrayLike, factor: float | Sequence[float]) -> NDArray[np.float64]:
    """The timestep at which an image of the trained size is as noisy as the reduced one at `t`.

    Averaging m x m pixels divides the variance of their noise by m^2, so the answer is the tau of
    SNR(tau) = m^2 SNR(t).

    Parameters
    ----------
    log_snr : (T,) array
        Log of alpha^2/sigma^2 at the timesteps 0 to T-1, decreasing.
    t : number or array
        Timesteps.
    factor : number, or one per grid axis
        A single number applies to two axes.

    Returns
    -------
    tau : float64, of the shape of `t`
        Interpolated linearly in log-SNR. Clamped at 0: where the reduced image is cleaner than the first entry of the
        table, timestep 0 is the closest one.

    Examples
    --------
    >>> betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # Stable Diffusion 1.5
    >>> alpha_bar = np.cumprod(1 - betas)
    >>> log_snr = np.log(alpha_bar / (1 - alpha_bar))
    >>> matched_time(log_snr, [999, 800, 600, 400], 4).round().astype(int).tolist()
    [723, 428, 200, 77]
    """
    table = np.asarray(log_snr, np.float64)
    if table.ndim != 1 or len(table) < 2 or not np.all(np.diff(table) <= 0):
        raise RekernelError("log_snr must be a decreasing table over the timesteps 0 to T-1")
    steps = np.arange(len(table))
    wanted = np.interp(np.asarray(t, np.float64), steps, table) + 2 * math.log(_noise_factor(factor))
    return np.interp(-wanted, -table, steps)


def low_band_power(alpha_sq: Any, factor: float | Sequence[float], sigma_sq: Any = None) -> Any:
    """Power P of a reduced noisy image, alpha^2 + sigma^2/m^2; dividing the image by sqrt(P) gives the matched input.

    Parameters
    ----------
    alpha_sq : number or array
        Square of the signal's scale alpha.
    factor : number, or one per grid axis
        A single number applies to two axes.
    sigma_sq : number or array, optional
        Variance of the noise; 1 - alpha_sq by default.

    Examples
    --------
    >>> low_band_power(0.5, 2)
    0.625
    """
    sigma_sq = 1 - alpha_sq if sigma_sq is None else sigma_sq
    return alpha_sq + sigma_sq / _noise_factor(factor) ** 2


def _noise_factor(factor: float | Sequence[float]) -> float:
    """Divisor of the noise's standard deviation: m for an average of m x m pixels."""
    return math.sqrt(math.prod(grid_factors(factor)))


@dataclass(frozen=True)
class Match:
    """Time and scale of the low-resolution pass, and the coefficients of both images.

    tau : time of the low-resolution pass
    scale : factor on the reduced image: 1/sqrt(P) for a variance-preserving process
    alpha, sigma : coefficients of the full image, `alpha x0 + sigma noise`
    low_alpha, low_sigma : coefficients of the input of the low-resolution pass
    """

    tau: Any
    scale: Any
    alpha: Any
    sigma: Any
    low_alpha: Any
    low_sigma: Any


def match(schedule: NoiseSchedule, t: ArrayLike, gain: float) -> Match:
    """Time, scale and coefficients of the low band whose noise is `gain` times the full image's.

    Parameters
    ----------
    schedule : NoiseSchedule
    t : number or (B,) array
    gain : float
        Factor by which the reduction multiplies the standard deviation of white noise, 1/m for an m x m average.

    Examples
    --------
    >>> from .schedules import SigmaSchedule
    >>> m = match(SigmaSchedule(), 10.0, 0.5)
    >>> float(m.tau), float(m.scale)
    (5.000000000000001, 1.0)
    """
    here = schedule.log_snr(t)
    low = here - 2 * math.log(gain)
    alpha, sigma = schedule.alpha(here), schedule.sigma(here)
    low_alpha, low_sigma = schedule.alpha(low), schedule.sigma(low)
    # Two expressions for the same ratio; the larger coefficient avoids a division by a number near 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(alpha > sigma, low_alpha / alpha, low_sigma / (gain * sigma))
    return Match(schedule.time(low), scale, alpha, sigma, low_alpha, low_sigma)
