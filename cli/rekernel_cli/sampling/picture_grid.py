"""Join pictures side by side into one picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GAP = 2  # pixels between pictures
_SMALLEST = 512  # pixels: a smaller grid is enlarged by a whole factor, without interpolation


def picture_grid(images: NDArray[np.uint8]) -> Image.Image:
    """Join (N, H, W, C) pictures side by side, in a nearly square grid."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), 255, np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        sheet[row * (height + _GAP) :][:height, column * (width + _GAP) :][:, :width] = image
    made = Image.fromarray(sheet[..., 0] if channels == 1 else sheet[..., :3])
    times = max(1, _SMALLEST // max(made.size))
    return made.resize((made.width * times, made.height * times), Image.Resampling.NEAREST)
