"""What is known of one tensor of a pass: the calls it came from, and where its elements were before they moved.

Knows shapes and orders of axes; no torch function, scale or plan. `recorder` says what happens to tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Pad = tuple[int, int]


@dataclass
class State:
    """What is known of a tensor.

    sources : the calls it came from
    by_hand, by_hand_mode, inside : padding that F.pad added just before, how, and whether a layer's own code did
    origin : shape (N, C, *spatial) of the tensor whose elements these are, only moved since
    index : for each element its flat position there
    in_place : none has moved: this is still (N, C, *spatial)
    tokens, prefix : (N, prefix + prod(tokens), C): the grid of pixels along axis 1, behind tokens that are none
    rows : name of the linear layer whose outputs these are, one feature (of origin (N, F)) each; empty for pixels
    reshaped : the nn.Unflatten that made pixels of them; empty where other code did, or where a layer that holds one
        value per feature came in between
    """

    sources: frozenset[int]
    by_hand: tuple[Pad, ...] = ()
    by_hand_mode: str = "constant"
    inside: bool = False
    origin: tuple[int, ...] = ()
    index: Tensor | None = None
    in_place: bool = False
    tokens: tuple[int, ...] = ()
    prefix: int = 0
    rows: str = ""
    reshaped: str = ""

    def places(self) -> Tensor | None:
        """The index; made only when something moves, since most grids are never flattened."""
        if self.index is None and self.in_place:
            self.index = torch.arange(math.prod(self.origin)).reshape(self.origin)
        return self.index


def fresh(tensor: Tensor, sources: frozenset[int]) -> State:
    """A tensor in the layout (N, C, *spatial), each element in its own place."""
    if tensor.ndim < 3:
        return State(sources)
    return State(sources, origin=tuple(tensor.shape), in_place=True)


def moved_tokens(state: State) -> tuple[int, ...]:
    """The grid along axis 1 of a tensor (N, tokens, C) that holds it row by row; empty where it does not."""
    index = state.index
    if index is None or index.ndim != 3 or len(state.origin) < 3:
        return ()
    grid = state.origin[2:]
    if index.shape[1] != math.prod(grid) or index.shape[2] != state.origin[1]:
        return ()
    return grid if torch.equal(index[0, :, 0], torch.arange(math.prod(grid))) else ()


def several_pixels(state: State | None, x: Tensor) -> bool:
    """Whether the last axis of `x` holds more than one pixel of a grid."""
    if state is None or len(state.origin) < 3 or (index := state.places()) is None:
        return False
    pixels = index % math.prod(state.origin[2:])
    rows = pixels.reshape(-1, x.shape[-1])
    return bool((rows != rows[:, :1]).any())


def flattened(state: State | None, x: Tensor) -> tuple[tuple[int, ...], str]:
    """The (C, *spatial) grid behind the last axis of `x`, and its order; empty where it is neither of the two.

    Examples
    --------
    >>> image = fresh(torch.zeros(1, 2, 3, 4), frozenset())
    >>> flat = State(frozenset(), origin=image.origin, index=image.places().flatten(1))
    >>> flattened(flat, torch.zeros(1, 24))
    ((2, 3, 4), 'channels-first')
    """
    index = state.places() if state is not None else None
    if state is None or index is None or x.shape[-1] != math.prod(state.origin[1:]):
        return (), ""
    row = index.reshape(-1, x.shape[-1])[0]
    order = _order(row - row.min(), state.origin[1:])
    return (state.origin[1:], order) if order else ((), "")


def unflattened(state: State, x: Tensor) -> tuple[tuple[int, ...], str]:
    """The grid (C, *spatial) that `x`, (N, C, *spatial), makes of the features of a linear layer, and its order.

    Examples
    --------
    >>> features = State(frozenset(), origin=(1, 24), in_place=True)
    >>> grid = State(frozenset(), origin=(1, 24), index=features.places().reshape(1, 3, 4, 2).permute(0, 3, 1, 2))
    >>> unflattened(grid, torch.zeros(1, 2, 3, 4))
    ((2, 3, 4), 'channels-last')
    """
    index = state.places()
    grid = tuple(x.shape[1:])
    if index is None or index.shape != x.shape or math.prod(grid) != state.origin[1]:
        return grid, ""
    features = index[0]
    if torch.equal(features.reshape(-1), torch.arange(features.numel())):
        return grid, "channels-first"
    if torch.equal(features.movedim(0, -1).reshape(-1), torch.arange(features.numel())):
        return grid, "channels-last"
    return grid, ""


def _order(row: Tensor, grid: tuple[int, ...]) -> str:
    plain = torch.arange(row.numel()).reshape(grid)
    if torch.equal(row, plain.reshape(-1)):
        return "channels-first"
    return "channels-last" if torch.equal(row, plain.movedim(0, -1).reshape(-1)) else ""


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """The tensors of arguments or a result, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_in(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors_in(value)
    elif hasattr(tree, "__dataclass_fields__"):
        for name in tree.__dataclass_fields__:
            yield from tensors_in(getattr(tree, name))


def first_tensor(tree: Any) -> Tensor | None:
    """The first tensor in whatever a model returns."""
    return next(tensors_in(tree), None)


def strides_of(item: Any) -> bool:
    """Whether an index takes every second (third, ...) entry of an axis.

    Examples
    --------
    >>> strides_of((slice(None), slice(0, None, 2))), strides_of(slice(3))
    (True, False)
    """
    parts: Sequence[Any] = item if isinstance(item, tuple) else (item,)
    return any(isinstance(p, slice) and p.step is not None and abs(p.step) > 1 for p in parts)
