"""Score the answers of a classifier against labels.

Scope: class numbers. Not here: running a network (see `torch.measure.verification`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import Option, RekernelError


@dataclass(frozen=True)
class Scores:
    """Scores in percent.

    accuracy : share of the pictures whose class is right
    f1 : mean over the classes that occur of 2 hits / (guessed + present)
    """

    accuracy: float
    f1: float


def checked_labels(labels: Sequence[int] | NDArray[Any] | Tensor, count: int) -> NDArray[np.int64]:
    """Labels as (count,) whole numbers.

    Raises
    ------
    RekernelError
        If there are more or fewer of them than pictures, or if they are not whole numbers.

    Examples
    --------
    >>> checked_labels([1, 2], 2).tolist()
    [1, 2]
    """
    found = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1 or len(found) != count:
        raise RekernelError(
            f"{len(found) if found.ndim == 1 else f'an array {found.shape}'} labels for {count} pictures; pass one "
            f"class number for each picture, in the order of the pictures"
        )
    if found.dtype.kind not in "biuf" or (found.dtype.kind == "f" and np.any(found != np.rint(found))):
        raise RekernelError(f"labels of type {found.dtype} are not class numbers; pass whole numbers from 0")
    return found.astype(np.int64)


def scores(guesses: NDArray[Any], labels: NDArray[np.int64], classes: int) -> Scores:
    """Accuracy and macro F1 in percent.

    Raises
    ------
    RekernelError
        If a label is not one of the `classes` numbers from 0.

    Examples
    --------
    >>> found = scores(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]), 2)
    >>> found.accuracy, round(found.f1, 1)
    (75.0, 73.3)
    """
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise RekernelError(
            f"label {wrong} is not one of the {classes} classes, 0 to {classes - 1}; ",
            Option("pass the numbers that the network was trained with", "check the labels of --data or --labels"),
        )
    each = [
        2 * int(((guesses == c) & (labels == c)).sum()) / int((guesses == c).sum() + (labels == c).sum())
        for c in np.unique(labels)
    ]
    return Scores(100 * float((guesses == labels).mean()), 100 * float(np.mean(each)))
