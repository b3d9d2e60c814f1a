"""Hold what a trace knows about one tensor: the calls it came from, and where its elements were before they moved.

Scope: shapes and orders of axes. Not here: what a torch function does to a tensor (see `tracing.recorder`), and scales
and plans (see `torch.planning`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .functions import steps_over

Pad = tuple[int, int]


@dataclass
class State:
    """What is known about a tensor.

    sources : indices of the calls that the tensor came from
    by_hand : explicit padding (`F.pad`) that was just added, (left, right) per spatial axis
    by_hand_mode : mode of that padding
    inside : whether the forward method of a convolution added that padding
    pads : numbers of the steps that added it
    origin : shape (N, C, *spatial) of the tensor that the elements came from; they were only moved since
    index : flat position of each element in that tensor
    in_place : whether no element has moved, so that the tensor still is (N, C, *spatial)
    flat : whether it is an input (N, T) of the model, which may be a signal or a vector of features
    tokens : grid of the image tokens along axis 1, which come after `prefix` tokens that are not part of the image
    prefix : number of those tokens; the shape of the tensor is (N, prefix + prod(tokens), C)
    rows : name of the linear layer whose features the elements are (`origin` is (N, F) then); empty for pixels
    reshaped : path of the nn.Unflatten that made a grid of these features; empty if other code did, or if a layer with
        one value per feature lies in between
    """

    sources: frozenset[int]
    by_hand: tuple[Pad, ...] = ()
    by_hand_mode: str = "constant"
    inside: bool = False
    pads: tuple[int, ...] = ()
    origin: tuple[int, ...] = ()
    index: Tensor | None = None
    in_place: bool = False
    flat: bool = False
    tokens: tuple[int, ...] = ()
    prefix: int = 0
    rows: str = ""
    reshaped: str = ""

    def places(self) -> Tensor | None:
        """The index. It is built when first needed, since most grids are never flattened."""
        if self.index is None and self.in_place:
            self.index = torch.arange(math.prod(self.origin)).reshape(self.origin)
        return self.index


def fresh(tensor: Tensor, sources: frozenset[int]) -> State:
    """The state of a tensor (N, C, *spatial) of which no element has moved."""
    if tensor.ndim < 3:
        return State(sources)
    return State(sources, origin=tuple(tensor.shape), in_place=True)


def on_pixels(state: State) -> bool:
    """Whether moved elements lie as (N', C', *spatial) again, with every pixel in its place.

    Examples
    --------
    >>> image = fresh(torch.zeros(2, 4, 3, 5), frozenset())
    >>> groups = image.places().reshape(2, 2, 2, 3, 5)
    >>> on_pixels(State(frozenset(), origin=image.origin, index=groups)), on_pixels(
    ...     State(frozenset(), origin=image.origin, index=groups[:, 0])
    ... )
    (False, True)
    """
    index, grid = state.index, state.origin[2:]
    if index is None or not grid or index.ndim != len(state.origin) or tuple(index.shape[2:]) != grid:
        return False
    pixels = index % math.prod(grid)
    return bool((pixels == torch.arange(math.prod(grid)).reshape(grid)).all())


def pixels_behind(state: State, x: Tensor) -> bool:
    """Whether the axes of (N', C', *spatial) behind the first two hold pixels, and these two hold none.

    So it is where frames of a video lie in the batch.

    Examples
    --------
    >>> video = fresh(torch.zeros(1, 2, 3, 4, 4), frozenset())
    >>> frames = State(frozenset(), origin=video.origin, index=video.places().transpose(1, 2).flatten(0, 1))
    >>> pixels_behind(frames, torch.zeros(3, 2, 4, 4))
    True
    """
    if x.ndim < 3 or len(state.origin) < 3 or (index := state.places()) is None or index.shape != x.shape:
        return False
    first = index[0] % math.prod(state.origin[2:])
    return bool((first == first[:1]).all()) and int(torch.unique(first[0]).numel()) == first[0].numel()


def reduced(state: State, axes: Sequence[int], out: Tensor) -> State | None:
    """The state of a sum, mean or maximum over `axes`; None where one pixel is left, which is not a grid.

    Each element of the result stands for the first one of those that it was made from.

    Examples
    --------
    >>> image = fresh(torch.zeros(2, 4, 3, 5), frozenset())
    >>> groups = State(frozenset(), origin=image.origin, index=image.places().reshape(2, 2, 2, 3, 5))
    >>> reduced(groups, (1,), torch.zeros(2, 2, 3, 5)).in_place, reduced(image, (2, 3), torch.zeros(2, 4)) is None
    (True, True)
    """
    index = state.places()
    if index is None or len(state.origin) < 3:
        return State(state.sources)
    first = index
    for axis in sorted({axis % index.ndim for axis in axes or range(index.ndim)}, reverse=True):
        first = first.narrow(axis, 0, 1) if out.ndim == index.ndim else first.select(axis, 0)
    if first.shape != out.shape:
        return State(state.sources)
    pixels = first % math.prod(state.origin[2:])
    if bool((pixels == pixels.reshape(-1)[0]).all()):
        return None
    left = State(state.sources, origin=state.origin, index=first, rows=state.rows)
    return fresh(out, state.sources) if not state.rows and on_pixels(left) else left


def pads_by_axis(pads: Sequence[int], count: int) -> tuple[Pad, ...]:
    """The padding of `count` spatial axes, (left, right) each, from the list of `F.pad`, whose first pair is the last
    axis. Padding of the channels is left out.

    Examples
    --------
    >>> pads_by_axis((1, 2), 2), pads_by_axis((0, 0, 0, 0, 4, 4), 2)
    (((0, 0), (1, 2)), ((0, 0), (0, 0)))
    """
    pairs = [(int(pads[i]), int(pads[i + 1])) for i in range(0, len(pads) - 1, 2)][:count]
    return tuple([(0, 0)] * (count - len(pairs)) + pairs[::-1])


def moved_tokens(state: State) -> tuple[int, ...]:
    """The grid whose pixels lie row by row along axis 1 of a tensor (N, tokens, C); empty if they do not."""
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


def skips_pixels(state: State | None, item: Any) -> bool:
    """Whether an index takes every second pixel. Taking every second channel does not count.

    Examples
    --------
    >>> image = fresh(torch.zeros(1, 4, 8), frozenset())
    >>> every, second = slice(None), slice(None, None, 2)
    >>> skips_pixels(image, (every, every, second)), skips_pixels(image, (every, second))
    (True, False)
    """
    if not steps_over(item) or state is None or len(state.origin) < 3 or (index := state.places()) is None:
        return False
    pixels = math.prod(state.origin[2:])
    before, after = index % pixels, index[item] % pixels
    return bool(torch.unique(after).numel() < torch.unique(before).numel())


def flattened(state: State | None, x: Tensor) -> tuple[tuple[int, ...], str]:
    """The grid (C, *spatial) that the last axis of `x` holds flattened, and its order.

    Both are empty if the order is neither 'channels-first' nor 'channels-last'.

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
    """The grid (C, *spatial) of `x`, which holds the features of a linear layer as an image, and the order of features.

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


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in the arguments or the result of a call, in order."""
    found: list[Tensor] = []
    _gather(tree, found)
    return found


def _gather(tree: Any, found: list[Tensor]) -> None:
    kind = type(tree)  # a trace asks this of every argument, and most are numbers
    if kind is int or kind is float or kind is bool or tree is None or kind is str:
        return
    if isinstance(tree, Tensor):
        found.append(tree)
    elif isinstance(tree, list | tuple):
        for value in tree:
            _gather(value, found)
    elif isinstance(tree, Mapping):
        for value in tree.values():
            _gather(value, found)
    elif hasattr(tree, "__dataclass_fields__"):
        for name in tree.__dataclass_fields__:
            _gather(getattr(tree, name), found)


def first_tensor(tree: Any) -> Tensor | None:
    """The first tensor in the result of a model; None if there is none."""
    return next(iter(tensors_in(tree)), None)
