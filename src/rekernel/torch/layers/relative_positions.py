"""Read the modules of attention windows, and index their table of relative positions, as Swin does.

Scope: attributes of modules, and the order of the table. Not here: whether windows can grow (see
`torch.planning.windows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .module_names import owner_of

TABLE, INDEX = "relative_position_bias_table", "relative_position_index"


def relative_index(size: tuple[int, ...]) -> Tensor:
    """The row of the table for each pair of tokens in a window of (h, w), as an (h*w, h*w) tensor, in Swin's order.

    Examples
    --------
    >>> relative_index((1, 2)).tolist()
    [[1, 0], [2, 1]]
    """
    h, w = size
    y, x = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    return (y[:, None] - y[None, :] + h - 1) * (2 * w - 1) + (x[:, None] - x[None, :] + w - 1)


def holders_of_window(model: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    """The modules with a `window_size` among the module at `path` and those around it, from the inside out."""
    names = [path]
    while names[-1]:
        names.append(owner_of(names[-1]))
    for name in names:
        module = model.get_submodule(name)
        if "window_size" in vars(module):
            yield name, module


def pair_of(value: Any) -> tuple[int, ...] | None:
    """(height, width) from one number for both, or from two; None for anything else."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return tuple(value)
    return None
