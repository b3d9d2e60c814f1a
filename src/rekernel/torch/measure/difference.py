"""Compare the answers of several networks to the same pictures, batch by batch.

Scope: answers, their relative differences, and the classes that they name. Not here: which networks and pictures are
compared (see `torch.measure.verification`), and single layers (see `torch.measure.compare`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...resampling.arrays import resample
from ...resampling.operators import grid_operator


@dataclass(frozen=True)
class Difference:
    """How far answers are from those that the original gives to the reduced pictures.

    error : ||D y' - y|| / ||y||; y are the original's answers and y' the others, which D averages to the grid of y
    kept : share of the pictures whose largest output stays the same; None for other outputs than (N, classes)
    """

    error: float
    kept: float | None = None


@dataclass
class Tally:
    """Sums over the batches of one network's answers, which `found` turns into a difference."""

    off: float = 0.0
    size: float = 0.0
    same: int = 0
    guesses: list[Tensor] = field(default_factory=list)
    classifies: bool = False

    def add(self, other: Tensor, y: Tensor) -> None:
        """Count one batch: answers of another network, reduced to the grid of the original's answers y."""
        self.off += float((other - y).double().square().sum())
        self.size += float(y.double().square().sum())
        self.classifies = y.ndim == 2 and y.shape[1] > 1
        if self.classifies:
            self.guesses.append(other.argmax(1).cpu())
            same = (other.argmax(1) == y.argmax(1)) & torch.isfinite(other).all(1)  # argmax names a class for NaN too
            self.same += int(same.sum())

    @property
    def classes(self) -> Tensor:
        """The class of each picture, (N,)."""
        return torch.cat(self.guesses)

    def found(self, count: int) -> Difference:
        """The difference over `count` pictures."""
        return Difference((self.off / max(self.size, 1e-60)) ** 0.5, self.same / count if self.classifies else None)


def reduced_by_hand(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Reduce pictures (N, C, *spatial) to `size` as image tools do: by an anti-aliased cubic filter.

    This is the control of `verify`: nobody calls it a change of the network, and its answers differ a little from those
    to area averages.

    Examples
    --------
    >>> reduced_by_hand(torch.ones(1, 1, 8), (4,)).round(decimals=4).tolist()
    [[[1.0, 1.0, 1.0, 1.0]]]
    """
    operators = {
        axis: grid_operator(int(x.shape[axis]), n, "cubic", gain="none")
        for axis, n in enumerate(size, start=2)
        if x.shape[axis] != n
    }
    reduced: Tensor = resample(x, operators) if operators else x
    return reduced
