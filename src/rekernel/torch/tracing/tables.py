"""Recognise tables of positions where a model adds them: whole, looked up by number, or without their first rows.

Scope: parameters and what is read of them. Not here: other functions (see `tracing.recorder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .functions import name_of
from .tensor_notes import TensorNotes
from .tensor_state import State


@dataclass(frozen=True)
class Positions:
    """A table that is added to tokens or pixels.

    name : name of the parameter
    grid : number of patches along each axis
    prefix : number of entries in front that are not patches
    """

    name: str
    grid: tuple[int, ...]
    prefix: int


@dataclass
class Tables:
    """What was read of the parameters of a model in a pass.

    `named` gives the name of a parameter, or an empty text, and `state` what is known about a tensor. Both belong to
    the recorder, which holds this object: it must not hold the recorder.
    """

    read: TensorNotes[tuple[str, int]] = field(
        default_factory=TensorNotes
    )  # name of a table, and rows left out, by what was read

    def note(self, func: Callable[..., Any], args: Sequence[Any], result: Any, named: Callable[[Any], str]) -> None:
        """Note a result that holds all rows of a table, by number (CLIP), or those behind the first (MAE, ViTPose)."""
        if func is nn.functional.embedding and len(args) > 1 and tuple(result.shape[-2:-1]) == args[1].shape[:1]:
            self.read[result] = named(args[1]), 0
        elif name_of(func) == "__getitem__" and isinstance(result, Tensor) and 1 < result.ndim == args[0].ndim:
            ahead = int(args[0].shape[-2]) - int(result.shape[-2])
            rows = args[1][result.ndim - 2] if isinstance(args[1], tuple) and len(args[1]) > result.ndim - 2 else None
            if ahead > 0 and isinstance(rows, slice) and rows.start == ahead and (name := named(args[0])):
                self.read[result] = name, ahead

    def added(
        self, args: Sequence[Any], named: Callable[[Any], str], state: Callable[[Tensor], State | None]
    ) -> Positions | None:
        """The table among two tensors that are added; None if there is none, or the other one is not on a grid."""
        if len(args) < 2:
            return None
        for x, other in (args[:2], args[1::-1]):
            if not isinstance(x, Tensor) or not isinstance(other, Tensor) or (known := state(x)) is None:
                continue
            name, ahead = self.read.get(other) or (named(other), 0)
            if name and known.tokens and other.ndim >= 2 and other.shape[-2:] == x.shape[-2:]:
                return Positions(name, known.tokens, known.prefix + ahead)
            if name and (grid := _grid_of(x, other, known.origin)):
                return Positions(name, grid, 0)
        return None


def _grid_of(x: Tensor, table: Tensor, origin: tuple[int, ...]) -> tuple[int, ...]:
    """The grid of a table (1, C, *grid) or (1, *grid, C) with as many axes as the pixels `x`; empty for any other."""
    grid = origin[2:]
    if len(grid) < 2 or not table.ndim == x.ndim == len(grid) + 2 or table.shape[1:] != x.shape[1:]:
        return ()
    last = tuple(x.shape[1:-1]) == grid and x.shape[-1] == origin[1]
    return grid if last or tuple(x.shape[2:]) == grid else ()
