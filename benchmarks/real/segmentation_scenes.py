"""Draw scenes of clothes on textured ground, with the true class of every pixel.

Scope: scenes from pictures of clothes that the caller passes, their reduction, and the mean IoU. Not here: reading
Fashion-MNIST (see `fashion_data`), networks (see `segmentation_unet`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 96
"""Pixels along a side of a scene."""
CLASSES = 11
"""Ten kinds of clothes, under the numbers of Fashion-MNIST, and the ground."""
GROUND = 10
OPAQUE = 16 / 255
"""A pixel of a piece at least this bright covers what lies under it; darker ones are the picture's own background."""

Pictures = NDArray[np.floating]
Labels = NDArray[np.integer]


def scenes(
    pieces: Pictures,
    kinds: Labels,
    count: int,
    seed: int | Sequence[int],
    *,
    side: int = SIDE,
    ground: str = "noise",
) -> tuple[Tensor, Tensor]:
    """`count` scenes of 2 to 5 pieces each, at random places; a later piece covers an earlier one.

    Parameters
    ----------
    pieces : (N, h, w) array
        Pictures of clothes on black, between 0 and 1.
    kinds : (N,) array
        Class of each, 0 to 9.
    count : int
    seed : int or sequence of int
        The same seed draws the same scenes.
    side : int
        Pixels along a side.
    ground : {'noise', 'gratings'}
        'noise' has a spectrum between white and 1/f^2. 'gratings' are plane waves of .36 to .5 cycles a pixel: whatever
        their direction, they are too fine for a picture of half the size.

    Returns
    -------
    pictures : (count, 1, side, side) tensor, float32, between 0 and 1
    truth : (count, side, side) tensor, int64
        Class of every pixel: that of the piece seen there, or GROUND.

    Examples
    --------
    >>> pictures, truth = scenes(np.ones((2, 28, 28)), np.array([3, 4]), 5, seed=0)
    >>> pictures.shape, sorted(truth.unique().tolist())
    (torch.Size([5, 1, 96, 96]), [3, 4, 10])
    """
    rng = np.random.default_rng(seed)
    pictures = _shaded(_gratings(count, side, rng) if ground == "gratings" else _noise(count, side, rng), rng)
    truth = np.full((count, side, side), GROUND, dtype=np.int64)
    height, width = pieces.shape[1:]
    for i in range(count):
        for _ in range(rng.integers(2, 6)):
            chosen = rng.integers(len(pieces))
            top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
            piece = pieces[chosen]
            seen = piece >= OPAQUE
            pictures[i, top : top + height, left : left + width][seen] = rng.uniform(0.7, 1.0) * piece[seen]
            truth[i, top : top + height, left : left + width][seen] = kinds[chosen]
    return torch.from_numpy(pictures).float()[:, None], torch.from_numpy(truth)


def _noise(count: int, side: int, rng: np.random.Generator) -> Pictures:
    """(count, side, side) of noise whose amplitudes fall as 1/f^a, a drawn between 0 and 2 for each."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1 / side
    steepness = rng.uniform(0.0, 2.0, (count, 1, 1))
    noise = np.fft.rfft2(rng.normal(size=(count, side, side))) * frequency**-steepness
    noise[:, 0, 0] = 0
    texture = np.fft.irfft2(noise, s=(side, side))
    return np.asarray(texture / texture.std(axis=(1, 2), keepdims=True))


def _gratings(count: int, side: int, rng: np.random.Generator) -> Pictures:
    """(count, side, side) of plane waves of .36 to .5 cycles a pixel, in any direction."""
    frequency, angle = rng.uniform(0.36, 0.5, (count, 1, 1)), rng.uniform(0, np.pi, (count, 1, 1))
    rows, columns = np.arange(side)[:, None], np.arange(side)
    return np.asarray(np.sqrt(2) * np.sin(2 * np.pi * frequency * (np.cos(angle) * rows + np.sin(angle) * columns)))


def _shaded(texture: Pictures, rng: np.random.Generator) -> Pictures:
    """Textures of variance 1 with a brightness and contrast drawn for each."""
    ones = (len(texture), 1, 1)
    brightness, contrast = rng.uniform(0.15, 0.6, ones), rng.uniform(0.04, 0.15, ones)
    return np.asarray(np.clip(brightness + contrast * texture, 0, 1))


def reduced_labels(truth: Tensor, factor: int, seed: int = 0) -> Tensor:
    """The class that most pixels of each factor x factor square have; a tie is broken by a seeded draw.

    Parameters
    ----------
    truth : (N, H, W) tensor
        Classes.

    Examples
    --------
    >>> reduced_labels(torch.tensor([[[1, 1, 2, 5], [1, 3, 2, 2]]]), 2)
    tensor([[[1, 2]]])
    """
    counts = torch.nn.functional.one_hot(truth, CLASSES).movedim(-1, 1).float()
    shares = torch.nn.functional.avg_pool2d(counts, factor)
    draws = torch.rand(shares.shape, generator=torch.Generator().manual_seed(seed))
    return (shares + draws * 0.5 / factor**2).argmax(1)


def confusion(predicted: Tensor, truth: Tensor) -> Tensor:
    """(CLASSES, CLASSES) counts of pixels: rows are true classes, columns predicted ones.

    Examples
    --------
    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))[:2, :2].tolist()
    [[1, 1], [0, 1]]
    """
    pairs = truth.flatten() * CLASSES + predicted.flatten()
    return torch.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def mean_iou(counts: Tensor) -> float:
    """Intersection over union of each class over all pixels, averaged over the classes that occur; between 0 and 1.

    Parameters
    ----------
    counts : (C, C) tensor
        As from `confusion`, summed over scenes.

    Examples
    --------
    >>> round(mean_iou(torch.tensor([[3, 1], [0, 4]])), 3)  # (3/4 + 4/5) / 2
    0.775
    """
    hit = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - hit
    return float((hit / union)[union > 0].mean())
