"""Judge generated 32x32 pictures of clothes against the true ones of Fashion-MNIST.

Scope: pictures and the classes that were asked for. Not here: sampling. The features are those of the classifier in
examples/fashion_diffusion (trained on the 60,000 true 32x32 training pictures), the reference are the first 5,000 test
pictures; `held_back` has the others, for the least distance that a set of a given size has.

    >>> images, labels = held_back(300)              # doctest: +SKIP
    >>> print(judge(images, labels)["frechet"])      # doctest: +SKIP

Compare rows of equal N only, and put the row of true pictures beside them: they get no Frechet distance of 0 either.
"""

import functools
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "fashion_diffusion"))

import numpy as np
import torch
from clothes import FOLDER, true_pictures
from frechet import frechet_interval
from high_band import high_band_power
from intervals import Measured, mean_ratio, share
from judge_network import look
from kernel_distance import kernel_distance, own_mean
from numpy.typing import NDArray
from precision_recall import precision_recall
from torch import Tensor
from train_judge import SIZE, load_judge

REFERENCE = 5000  # test pictures that are the reference


@dataclass(frozen=True)
class Reference:
    """What is computed of the true pictures once."""

    features: NDArray[np.float64]
    kernel_mean: float  # see `kernel_distance.own_mean`
    high_band: float  # power above the 16x16 Nyquist frequency


def judge(images: Tensor, labels: Tensor, folder: Path = FOLDER) -> dict[str, Measured]:
    """Every number, with a 95 % interval over the generated set.

    Parameters
    ----------
    images : (N, 1, 32, 32) tensor in [0, 1], N at least 4
    labels : (N,) integer tensor
        The classes that were asked for, 0 to 9.
    folder : Path
        The four IDX files of Fashion-MNIST. The reference is computed at the first call and kept in memory.

    Returns
    -------
    row : dict
        'frechet', 'kid' (the kernel distance), 'precision' and 'recall' in the classifier's 64 features, the last two
        against as many true pictures as there are generated ones (5,000 at most); 'recognised', the share where the
        classifier prefers the asked class; 'sharpness', the mean power above the 16x16 Nyquist frequency over that of
        true pictures.

    Raises
    ------
    ValueError
        Where the pictures are not (N, 1, 32, 32), are fewer than 4, leave [0, 1], or the labels are not N.
    """
    if images.shape != (len(labels), 1, SIZE, SIZE) or len(labels) < 4:
        raise ValueError(
            f"pictures of the shape {tuple(images.shape)} for {len(labels)} labels: pass (N, 1, {SIZE}, {SIZE}) and "
            "(N,), N at least 4."
        )
    if not (images.min() >= 0 and images.max() <= 1):  # said so that NaN is caught too
        raise ValueError(f"pixels from {images.min():g} to {images.max():g}: pass [0, 1].")
    true, made = reference(folder), images[:, 0].float().cpu().numpy()
    features, probabilities = look(load_judge(), made)
    precision, recall = precision_recall(true.features[: len(made)], features)
    return {
        "frechet": Measured(*frechet_interval(true.features, features)),
        "kid": kernel_distance(true.features, features, true.kernel_mean),
        "precision": precision,
        "recall": recall,
        "recognised": share(probabilities.argmax(axis=1) == labels.cpu().numpy()),
        "sharpness": mean_ratio(high_band_power(made), true.high_band),
    }


@functools.cache
def reference(folder: Path = FOLDER) -> Reference:
    """What the first `REFERENCE` test pictures are compared by."""
    images = true_pictures("test", folder).x[:REFERENCE, 0].numpy()
    features, _ = look(load_judge(), images)
    return Reference(features, own_mean(features), float(high_band_power(images).mean()))


def held_back(count: int, folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """`count` test pictures that the reference does not have, the ten classes in turn: (N, 1, 32, 32) and (N,)."""
    x, y = (part[REFERENCE:] for part in true_pictures("test", folder))
    by_class = [torch.nonzero(y == k)[:, 0] for k in range(10)]
    shortest = min(map(len, by_class))
    if count > 10 * shortest:
        raise ValueError(f"count={count}: there are {10 * shortest} pictures with the classes in turn.")
    order = torch.stack([found[:shortest] for found in by_class], 1).flatten()[:count]
    return x[order], y[order]
