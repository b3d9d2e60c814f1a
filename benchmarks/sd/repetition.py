"""Measure how often the large shapes of a picture repeat, against samples of the trained size.

Scope: pictures and numbers. Not here: which pictures are compared (see `measuring`). Imports NumPy and Pillow.

A model above its trained size draws its object several times. Two copies are objects of one kind, and not copies pixel
by pixel: the largest autocorrelation at the distance of a copy does not tell them from one object, which resembles
itself as much. But the shapes become smaller and more. So the measure is the mean frequency of the coarse picture, in
cycles per side: it is that of samples of the trained size where the layout is theirs, and higher where content repeats.
The method is ours. tests/benchmarks/sd/test_repetition.py shows it on the models of this repository.

The mean is taken over log frequency with the power spectrum as weight, so noise and fine texture hardly count. Only up
to 4 cycles per side are read: the large shapes, which a bicubically enlarged sample has as well. A slope of light is
subtracted before. A texture that looks alike at all scales has no scale to measure, so compare methods on the same
prompts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COARSE = 16  # side of the picture that is judged
HIGHEST = 4.0  # cycles per side
_FLAT = 1e-6  # variance, of values in [0, 1]: a picture of one colour has no shapes


def mean_frequency(picture: Image.Image) -> float | None:
    """Mean frequency of the coarse picture in cycles per side; None for a picture of one colour.

    Parameters
    ----------
    picture : square, of any mode; its luminance is judged

    Examples
    --------
    >>> x = np.arange(64) / 64
    >>> def waves(count):
    ...     return Image.fromarray(np.uint8(127.5 + 100 * np.sin(2 * np.pi * count * x) * np.ones((64, 1))))
    >>> round(mean_frequency(waves(3)), 1)
    3.0
    """
    grey = Image.fromarray(np.asarray(picture.convert("L"), np.float32) / 255)
    coarse = np.asarray(grey.resize((COARSE, COARSE), Image.Resampling.BOX), np.float64)
    level = coarse - _plane(coarse)
    if level.var() < _FLAT:
        return None
    power = np.abs(np.fft.fft2(level)) ** 2
    along = np.fft.fftfreq(COARSE, 1 / COARSE)
    cycles = np.hypot(along[:, None], along)
    read = (cycles > 0) & (cycles <= HIGHEST)
    total = power[read].sum()
    return float(np.exp((power[read] * np.log(cycles[read])).sum() / total)) if total > 0 else None


def _plane(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The plane that fits best, in the sense of least squares."""
    rows, columns = np.indices(values.shape).reshape(2, -1)
    design = np.stack([np.ones(values.size), rows, columns], axis=1)
    fitted: NDArray[np.float64] = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
    return fitted.reshape(values.shape)


@dataclass(frozen=True)
class Repetition:
    """Mean frequency of pictures over that of samples of the trained size.

    ratio : geometric mean over the pictures; 1 is the layout of the trained size, above 1 content repeats, and below
        1 shapes were lost
    low, high : ends of its 95 % bootstrap interval over the pictures
    pictures : how many were compared
    """

    ratio: float
    low: float
    high: float
    pictures: int


def repetition(
    pictures: Sequence[float | None], samples: Sequence[float | None], *, resamples: int = 1000
) -> Repetition | None:
    """Compare mean frequencies, pair by pair; pairs with a picture of one colour are left out.

    Parameters
    ----------
    pictures, samples : mean frequencies; the sample of each picture has the same prompt and seed
    resamples : of the bootstrap

    Returns
    -------
    None where no pair is left

    Examples
    --------
    >>> found = repetition([2.0, 3.0, None], [1.0, 1.5, 1.0])
    >>> round(found.ratio, 6), round(found.low, 6), found.pictures
    (2.0, 2.0, 2)
    """
    pairs = [(p, s) for p, s in zip(pictures, samples, strict=True) if p is not None and s is not None]
    if not pairs:
        return None
    logs = np.log([p / s for p, s in pairs])
    drawn = np.random.default_rng(0).choice(logs, (resamples, len(logs))).mean(axis=1)
    low, high = np.exp(np.quantile(drawn, (0.025, 0.975)))
    return Repetition(float(np.exp(logs.mean())), float(low), float(high), len(logs))
