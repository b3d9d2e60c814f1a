"""Measure a batch of generated glyphs: one table row, from pictures and the digits that were asked for.

Scope: pictures (N, S, S) in [0, 1] and labels. Not here: sampling the pictures (see `diffusion`). The parts are
`glyph_features` (a judge trained on true glyphs of the size S), `frechet` and `glyph_objects`.

    >>> reference = Reference.of_size(32)                         # doctest: +SKIP
    >>> row = reference.measure(pictures, labels)                 # doctest: +SKIP
    >>> floor = reference.measure(*true_glyphs(len(labels), 7, 32))  # doctest: +SKIP

Five numbers, each with a 95 % interval over the generated set: Wilson's for shares, a bootstrap for the others.
Compare rows of equal N only, and put `floor` beside them: true glyphs get no Frechet distance of 0 either.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion"))

import numpy as np
from frechet import frechet_interval
from glyph_features import judge_for, true_glyphs
from glyph_objects import count_objects
from high_band import high_band_power
from intervals import Measured, mean_ratio, share
from judge_network import Judge, look
from numpy.typing import NDArray

SURE = 0.9  # probability of the asked digit that counts as certain
Images = NDArray[np.floating]


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
