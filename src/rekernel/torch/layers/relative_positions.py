"""Know how Swin lays out attention windows: its index of relative positions, and the modules that hold a window size.

Scope: numbers and attributes. Not here: planning windows (see `torch.planning.windows`), and changing modules (see
`torch.editing.windows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .module_names import owner_of

TABLE, INDEX, MASK = "relative_position_bias_table", "relative_position_index", "attn_mask"
WINDOW = ("window_size", "ws")
"""Attributes that hold the tokens of a window along each axis; Twins calls it `ws`."""


def relative_index(size: tuple[int, ...]) -> Tensor:
    """The row of the table for each pair of tokens in a window, as an (n, n) tensor for n tokens, in Swin's order.

    Parameters
    ----------
    size : tuple of int
        Tokens of the window along each axis.

    Examples
    --------
    >>> relative_index((1, 2)).tolist()
    [[1, 0], [2, 1]]
    """
    places = torch.cartesian_prod(*(torch.arange(n) for n in size)).reshape(-1, len(size))
    apart = places[:, None] - places[None, :] + torch.tensor(size) - 1
    steps = [math.prod(2 * n - 1 for n in size[axis + 1 :]) for axis in range(len(size))]
    return (apart * torch.tensor(steps)).sum(-1)


def holders_of_window(model: nn.Module, path: str) -> Iterator[tuple[str, Any, str]]:
    """The modules with a window size among the module at `path` and those around it, from the inside out.

    Yields
    ------
    path, module, attribute
        The attribute is that of the window size.
    """
    names = [path]
    while names[-1]:
        names.append(owner_of(names[-1]))
    for name in names:
        module = model.get_submodule(name)
        attribute = next((known for known in WINDOW if known in vars(module)), "")
        if attribute:
            yield name, module, attribute


def sides_of(value: Any, dims: int = 2) -> tuple[int, ...] | None:
    """A size along each axis, from one number for all axes or from one per axis; None for anything else.

    Examples
    --------
    >>> sides_of(7), sides_of([2, 7, 7], 3), sides_of("7")
    ((7, 7), (2, 7, 7), None)
    """
    if isinstance(value, int):
        return (value,) * dims
    if isinstance(value, tuple | list) and len(value) == dims and all(isinstance(n, int) for n in value):
        return tuple(value)
    return None
