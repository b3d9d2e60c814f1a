"""Enlarge a grid where a layer reads it, for models whose own code makes a grid of fixed size from features.

Scope: tensors and resampling operators. Not here: which layer reads such a grid (see `torch.planning.planner`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import shown
from ...plan.changes import ModuleChange
from ...resampling.operators import grid_operator

_LARGEST = 1 << 12  # bound on the pixels along an axis: a plan may come from an untrusted file


class Enlarge:
    """A forward pre-hook that interpolates the layer's input as values (cubic, half-pixel centres, clamped edges).

    A grid of another size than the trained one passes unchanged.

    Examples
    --------
    >>> from rekernel import AxisGeometry
    >>> side, double = AxisGeometry(2, 1, (0, 0)), AxisGeometry(4, 1, (0, 0))
    >>> hook = Enlarge(ModuleChange("0", "enlarge", "", (side,), (double,)))
    >>> hook(nn.Identity(), (torch.ones(1, 1, 2),))[0]
    tensor([[[1., 1., 1., 1.]]])
    """

    def __init__(self, change: ModuleChange) -> None:
        sizes = [
            (before.kernel, after.kernel) for before, after in zip(change.geometry, change.new_geometry, strict=True)
        ]
        if any(not 0 < old < _LARGEST or not 0 < new < _LARGEST for old, new in sizes):
            raise RekernelError(
                f"{shown(change.name)}: its grid cannot be enlarged by (old, new) sizes of {sizes}: each must be "
                f"between 1 and {_LARGEST - 1}"
            )
        self.size = tuple(old for old, _ in sizes)
        self.matrices = [
            torch.from_numpy(grid_operator(old, new, "cubic", gain="none").copy()) if old != new else None
            for old, new in sizes
        ]

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = args[0]
        if tuple(x.shape[2:]) != self.size:
            return args
        for axis, matrix in enumerate(self.matrices):
            if matrix is not None:
                x = (x.movedim(axis + 2, -1) @ matrix.to(x).T).movedim(-1, axis + 2)
        return (x, *args[1:])
