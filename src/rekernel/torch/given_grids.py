"""Show a model whose linear layer reads flattened pixels the picture that they are: `rescale(..., grids=...)`.

Scope: the example input, and a hook that flattens a picture in front of the model while it is planned and checked. Not
here: what becomes of the layer (see `planning.rules`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import RekernelError
from ..escape import shown
from ..patterns import by_pattern, select
from ..planning.allowed_values import rows_of_a_picture, sizes
from ..text import dims
from .tracing.run import Trace

_EXAMPLE = "{'fc1': (1, 28, 28)}"


def checked_grids(model: nn.Module, grids: object) -> dict[str, tuple[int, ...]]:
    """The grids that a caller gave, by the name of the linear layer.

    Examples
    --------
    >>> checked_grids(nn.Sequential(nn.Linear(784, 10)), {"0": (1, 28, 28)})
    {'0': (1, 28, 28)}
    """
    found: dict[str, tuple[int, ...]] = {}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for pattern, grid in by_pattern(grids, "grids", _EXAMPLE).items():
        if not sizes(grid) or len(grid) < 2:
            raise RekernelError(
                f"grids: {shown(repr(grid), 80)} of {shown(pattern)} is not channels and then the size along each "
                f"axis, such as (1, 28, 28)"
            )
        names = select([f"{name}.weight" for name in layers], [pattern], "grids")
        for name in sorted(name.removesuffix(".weight") for name in names):
            inputs = layers[name].in_features
            if inputs != math.prod(grid):
                raise RekernelError(
                    f"grids: a grid of {dims(grid)} has {math.prod(grid)} pixels, but {shown(name)} reads {inputs}"
                )
            found[name] = tuple(grid)
    return found


def as_pictures(args: Sequence[Any], grids: Mapping[str, tuple[int, ...]]) -> list[Any]:
    """The arguments, with a picture (N, C, *spatial) in the place of one whose pixels or channels are flattened."""
    made = list(args)
    for grid in grids.values():
        for index, given in enumerate(made):
            if not isinstance(given, Tensor) or given.ndim < 2 or given.ndim > len(grid):
                continue
            if math.prod(given.shape[1:]) == math.prod(grid):
                made[index] = given.reshape(len(given), *grid)
                return made
    return made


@contextmanager
def flattened(model: nn.Module, like: Sequence[Any], pictures: Sequence[Any]) -> Iterator[None]:
    """Let the model take pictures where it takes other shapes, for as long as this runs.

    Parameters
    ----------
    like : the arguments that the model takes
    pictures : the same arguments as `as_pictures` changed them
    """
    changed = {i: a.ndim for i, (a, b) in enumerate(zip(like, pictures, strict=True)) if a is not b}

    def flat(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            (x.flatten(1) if changed[i] == 2 else x.flatten(1, x.ndim - changed[i] + 1)) if i in changed else x
            for i, x in enumerate(args)
        )

    if not changed:
        yield
        return
    handle = model.register_forward_pre_hook(flat)
    try:
        yield
    finally:
        handle.remove()


def check_seen(trace: Trace, grids: Mapping[str, tuple[int, ...]]) -> None:
    """Raise where a layer was seen to read another grid than the caller said."""
    read = {call.module: call.grid for call in trace.calls if call.kind == "linear"}
    for name, grid in grids.items():
        if name in read and read[name] and tuple(read[name]) != grid:
            raise RekernelError(
                f"grids: {shown(name)} reads a grid of {dims(read[name])} in the model's own code, not {dims(grid)}; "
                f"leave it out"
            )
        if name not in read:
            raise RekernelError(
                f"grids: {shown(name)} does not read the flattened input; name the layer that does, and pass an "
                f"example input of that many pixels, (N, {math.prod(grid)})"
            )


def signal_notes(model: nn.Module, trace: Trace, shape: Sequence[int]) -> list[str]:
    """A note where the pixels of a picture, or a picture without its axis of channels, were taken for a signal.

    Parameters
    ----------
    shape : shape of the example input
    """
    if len(shape) == 2 and not any(c.kind == "linear" and c.grid for c in trace.calls):
        layer = next(
            (n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.in_features == shape[1]), ""
        )
        if layer:
            return [
                f"{shown(layer)}: the example input {tuple(shape)} is taken for a signal of {shape[1]} samples; if "
                f"these are the pixels of a picture, pass grids={{{layer!r}: {picture_of(shape[1])}}}"
            ]
    if len(shape) != 3:
        return []
    call = next((c for c in trace.calls if c.kind == "linear" and 0 in c.sources and len(c.grid) == 2), None)
    if call is None:
        return []
    if not rows_of_a_picture(call.grid):
        return []
    rows, columns = call.grid
    picture, whole = f"(1, {rows}, {columns})", (shape[0], 1, *shape[1:])
    return [
        f"{shown(call.weight)}: the example input {tuple(shape)} is taken for a signal of {columns} samples with "
        f"{rows} channels; if it is a picture, pass {whole}, or grids={{{call.module!r}: {picture}}}"
    ]


def picture_of(pixels: int) -> str:
    """A grid (C, H, W) of so many numbers, as an example to write: of one channel or three where it is a square.

    Examples
    --------
    >>> picture_of(784), picture_of(3072), picture_of(1000)
    ('(1, 28, 28)', '(3, 32, 32)', '(C, H, W)')
    """
    for channels in (1, 3, 4):
        side = math.isqrt(pixels // channels)
        if channels * side * side == pixels:
            return f"({channels}, {side}, {side})"
    return "(C, H, W)"
