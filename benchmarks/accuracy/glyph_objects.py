"""Count the objects in a picture of a glyph, coarsely.

Scope: pictures of light strokes on a darker, smooth background. Not here: labels (see `glyph_features`). Imports NumPy
and SciPy.

Method. The picture is averaged down to 16x16, since the question is about large things; fine texture is for other
measures. A plane is fitted to the background and subtracted, the rest is blurred a little so that a hairline does not
cut a digit in two, and what exceeds a share of the stroke's level is foreground. Its connected parts (8 neighbours)
count as objects where they hold at least a share of the heaviest part's light. The constants were set on true glyphs
of the training fonts, where one object is the right answer, and on sheets of four half-size glyphs, where it is not.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

COARSE = 16  # side of the picture that is judged
BLUR = 0.4  # coarse pixels, standard deviation
FOREGROUND = 0.25  # share of the stroke's level
STROKE_QUANTILE = 0.97  # of all coarse pixels, above the background: the stroke's level
FAINTEST = 0.08  # a picture whose stroke is not this much above its background shows nothing
SMALLEST = 0.1  # share of the heaviest part's light


def count_objects(images: NDArray[np.floating]) -> NDArray[np.int64]:
    """Objects in each of (N, S, S) pictures in [0, 1], S a multiple of 16: (N,) int64.

    Raises
    ------
    ValueError
        Where the pictures are not square or their side is not a multiple of 16.
    """
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.shape[1] % COARSE:
        raise ValueError(f"pictures of the shape {images.shape}: pass (N, S, S), S a multiple of {COARSE}.")
    block = images.shape[1] // COARSE
    coarse = images.reshape(-1, COARSE, block, COARSE, block).mean(axis=(2, 4), dtype=np.float64)
    return np.array([_count(picture) for picture in coarse], np.int64)


def _count(picture: NDArray[np.float64]) -> int:
    light = ndimage.gaussian_filter(picture - _background(picture), BLUR, mode="nearest")
    level = np.quantile(light, STROKE_QUANTILE)
    if level < FAINTEST:
        return 0
    parts, count = ndimage.label(light > FOREGROUND * level, structure=np.ones((3, 3)))
    weights = ndimage.sum_labels(light, parts, np.arange(1, count + 1))
    return int((weights >= SMALLEST * weights.max()).sum())


def _background(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """The plane through the darker half of the pixels, fitted again without those that stand out from it."""
    rows, columns = np.indices(picture.shape).reshape(2, -1) - (COARSE - 1) / 2
    design = np.stack([np.ones_like(rows), rows, columns], axis=1)
    values = picture.ravel()
    kept = values <= np.median(values)
    for _ in range(3):
        plane = design @ np.linalg.lstsq(design[kept], values[kept], rcond=None)[0]
        spread = 1.4826 * np.median(np.abs(values - plane)[kept])
        kept = values - plane <= max(3 * spread, 0.02)
    return plane.reshape(picture.shape)
