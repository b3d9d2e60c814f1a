"""Draw glyph images: the ten digits in matplotlib's bundled fonts, exact at every size.

Scope: fonts, PIL and averaging. Not here: networks (see `models`) and training (see `train`). Imports NumPy, PIL and
matplotlib alone. An image is drawn once on a 256x256 canvas and stored at one size; each smaller size is an area
average of the stored image.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CLASSES = "0123456789"
CANVAS = 256
DIGIT_HEIGHT = 176  # pixels of the canvas, before the random size

TRAIN_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmb10",
    "cmr10",
    "cmti10",
    "cmtt10",
)
TEST_FONTS = (  # no training image uses them
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneralBolIta",
    "cmss10",
)


def render_glyphs(
    n: int, seed: int, size: int = 64, *, fonts: Sequence[str] = TRAIN_FONTS
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw `n` digits with random font, place, size, slant, rotation, contrast and background.

    The first k images do not depend on `n`: image i has its own generator, seeded by (`seed`, i).
    For exact averages, reduce the images of one size with `area_reduce`; drawing anew at a smaller size rounds anew.

    Parameters
    ----------
    size : int
        Side of the images; a divisor of 256.
    fonts : sequence of str
        File names, without `.ttf`, in matplotlib's font folder.

    Returns
    -------
    images : (n, size, size) ndarray, uint8
    labels : (n,) ndarray, int64, positions in `CLASSES`

    Examples
    --------
    >>> images, labels = render_glyphs(3, seed=0)
    >>> images.shape, images.dtype.name, area_reduce(images, 4).shape
    ((3, 64, 64), 'uint8', (3, 16, 16))
    """
    if size < 1 or CANVAS % size:
        raise ValueError(f"size={size} does not divide the canvas of {CANVAS}. Pass 16, 32, 64, 128 or 256.")
    images = np.empty((n, size, size), np.uint8)
    labels = np.empty(n, np.int64)
    for i in range(n):
        rng = np.random.default_rng((seed, i))
        labels[i] = rng.integers(len(CLASSES))
        font = fonts[rng.integers(len(fonts))]
        mask = _random_affine(_glyph_mask(font, CLASSES[labels[i]]), rng)
        images[i] = np.rint(255 * _shade(area_reduce(np.asarray(mask), CANVAS // size), rng))
    return images, labels


def area_reduce(images: NDArray, factor: int) -> NDArray[np.float32]:
    """Average blocks of `factor` x `factor` pixels: (..., H, W) to (..., H/factor, W/factor).

    uint8 images become float32 in [0, 1]; floating-point images keep their range. Sums are taken in float64.

    Examples
    --------
    >>> area_reduce(np.array([[0, 255], [255, 255]], np.uint8), 2).tolist()
    [[0.75]]
    """
    *lead, height, width = images.shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor={factor} does not divide images of {height}x{width}. Pass a common divisor.")
    blocks = images.reshape(*lead, height // factor, factor, width // factor, factor)
    dtype = np.uint32 if images.dtype == np.uint8 else np.float64
    total = blocks.sum(axis=-1, dtype=dtype).sum(axis=-2, dtype=dtype)
    peak = 255 if images.dtype == np.uint8 else 1
    return (total / (peak * factor**2)).astype(np.float32)


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    """The font at the size where its '0' is `DIGIT_HEIGHT` pixels high."""
    path = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf")
    _, top, _, bottom = ImageFont.truetype(path, CANVAS).getbbox("0")
    return ImageFont.truetype(path, round(CANVAS * DIGIT_HEIGHT / (bottom - top)))


@cache
def _glyph_mask(font: str, character: str) -> Image.Image:
    """Coverage of one upright character, its ink centred on the (256, 256) canvas; mode 'L'."""
    left, top, right, bottom = _font(font).getbbox(character)
    mask = Image.new("L", (CANVAS, CANVAS))
    corner = ((CANVAS - left - right) / 2, (CANVAS - top - bottom) / 2)
    ImageDraw.Draw(mask).text(corner, character, fill=255, font=_font(font))
    return mask


def _random_affine(mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn, slant, stretch and move `mask`, (256, 256), about its centre by sub-pixel amounts."""
    angle = np.deg2rad(rng.uniform(-20, 20))
    shear = rng.uniform(-0.25, 0.25)
    zoom = rng.uniform(0.6, 1.1) * np.array([rng.uniform(0.9, 1.1), 1.0])
    shift = rng.uniform(-1.5, 1.5, 2) * CANVAS / 16  # in pixels of 16x16
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(zoom))
    centre = CANVAS / 2  # PIL itself adds the 1/2 of pixel centres
    offset = centre - inverse @ (centre + shift)
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    return mask.transform(mask.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def _shade(coverage: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """Light stroke on a darker, mildly sloping background: (size, size) coverage to values in [0, 1]."""
    size = coverage.shape[-1]
    centres = (np.arange(size) + 0.5) / size - 0.5
    slope_y, slope_x = rng.uniform(-0.08, 0.08, 2)
    background = rng.uniform(0.08, 0.3) + slope_y * centres[:, None] + slope_x * centres
    stroke = rng.uniform(0.55, 1.0)
    return background + (stroke - background) * coverage
