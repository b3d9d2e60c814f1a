"""Measure a batch of generated glyphs: one table row, from pictures and the digits that were asked for.

Scope: pictures (N, S, S) in [0, 1] and labels. Not here: sampling the pictures (see `diffusion`). The parts are
`glyph_features` (a judge trained on true glyphs of the size S), `frechet` and `glyph_objects`.

    >>> reference = Reference.of_size(32)                         # doctest: +SKIP
    >>> row = reference.measure(pictures, labels)                 # doctest: +SKIP
    >>> floor = reference.measure(*true_glyphs(len(labels), 7, 32))  # doctest: +SKIP

Five numbers, each with a 95 % interval over the generated set: Wilson's for shares, a bootstrap for the others.
Compare rows of equal N only, and put `floor` beside them: true glyphs get no Frechet distance of 0 either.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from frechet import frechet_interval
from glyph_features import Judge, judge_for, look, true_glyphs
from glyph_objects import count_objects
from numpy.typing import NDArray
from scipy.fft import dctn

SURE = 0.9  # probability of the asked digit that counts as certain
TRAINED_SIZE = 16
Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
Images = NDArray[np.floating]


@dataclass(frozen=True)
class Measured:
    """A number and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Reference:
    """True glyphs of one size, and the judge that was trained on others of that size."""

    size: int
    judge: Judge
    features: NDArray[np.float64]  # (M, F), of the true glyphs
    high_band: float  # their power above the trained size's Nyquist frequency; 0 at the trained size

    @classmethod
    def of_size(cls, size: int, count: int = 2000, seed: int = 41) -> Self:
        """`count` true glyphs of `size`; trains the judge where it is not in the cache."""
        images, _ = true_glyphs(count, seed, size)
        judge = judge_for(size)
        return cls(size, judge, look(judge, images)[0], float(high_band_power(images).mean()))

    def measure(self, images: Images, labels: NDArray[np.integer]) -> dict[str, Measured]:
        """Every number for pictures (N, S, S) in [0, 1] of the digits `labels`, (N,).

        Returns
        -------
        row : dict
            'frechet', the distance to the true glyphs in the judge's features; 'sure' and 'top1', shares where the
            judge gives the asked digit more than `SURE`, or more than any other; 'one_object', a share; 'sharpness',
            the mean power above the 16x16 Nyquist frequency over that of true glyphs, left out at 16x16.

        Raises
        ------
        ValueError
            Where the pictures are not (N, S, S) with the reference's S, leave [0, 1], or the labels are not N.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if images.shape != (len(labels), self.size, self.size):
            wanted = (len(labels), self.size, self.size)
            raise ValueError(f"pictures of the shape {images.shape} for {len(labels)} labels: pass {wanted}.")
        if not (images.min() >= 0 and images.max() <= 1):  # said so that NaN is caught too
            raise ValueError(f"pixels from {images.min()} to {images.max()}: pass [0, 1].")
        features, probabilities = look(self.judge, images)
        asked = probabilities[np.arange(len(labels)), labels]
        row = {
            "frechet": Measured(*frechet_interval(self.features, features)),
            "sure": share(asked > SURE),
            "top1": share(probabilities.argmax(axis=1) == labels),
            "one_object": share(count_objects(images) == 1),
        }
        if self.high_band > 0:
            row["sharpness"] = mean_ratio(high_band_power(images), self.high_band)
        return row


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


def high_band_power(images: Images) -> NDArray[np.float64]:
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


def mean_ratio(values: NDArray[np.float64], over: float, *, resamples: int = 1000, seed: int = 0) -> Measured:
    """mean(`values`) / `over`, with the bootstrap percentile interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]) / over
    return Measured(float(values.mean() / over), float(low), float(high))
