"""Measure how much of a picture lies above the Nyquist frequency of the trained size, 16x16.

Scope: pictures (N, S, S). Not here: the ratio to true pictures (see `intervals.mean_ratio`).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

TRAINED_SIZE = 16


def high_band_power(images: NDArray[np.floating]) -> NDArray[np.float64]:
    """Power of each (S, S) picture that a 16x16 one cannot hold, per pixel: (N, S, S) to (N,).

    Of the cosine transform, since a Fourier transform would count the step from one border to the opposite one:
    coefficient k has k/2 periods in the picture, so those with k >= 16 along either axis are above the Nyquist
    frequency of 16 pixels.

    Examples
    --------
    >>> columns = np.arange(32) + 0.5
    >>> waves = [np.tile(np.cos(np.pi * k * columns / 32), (32, 1)) for k in (15, 16)]
    >>> high_band_power(np.array(waves)).round(6).tolist()
    [0.0, 0.5]
    """
    power = dctn(np.asarray(images, np.float64), axes=(1, 2), norm="ortho") ** 2
    power[:, :TRAINED_SIZE, :TRAINED_SIZE] = 0
    return power.mean(axis=(1, 2))
