"""Enlarge attention windows, in the module that holds their table and in those that cut the grid into windows.

Scope: changing modules. Not here: whether windows can grow (see `torch.planning.windows`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...errors import RekernelError
from ...escape import shown
from ...plan.changes import ModuleChange
from ..layers.relative_positions import INDEX, MASK, TABLE, holders_of_window, relative_index, sides_of
from .edits import Edits


def enlarge_window(edits: Edits, change: ModuleChange) -> None:
    """Set the new window size in the module that holds the table, and in those that cut and shift the windows."""
    owner = edits.model.get_submodule(change.name)
    index = owner._buffers.get(INDEX)
    old, new = (tuple(g.kernel for g in geometry) for geometry in (change.geometry, change.new_geometry))
    held = next((getattr(module, what) for _, module, what in holders_of_window(edits.model, change.name)), None)
    if not new or len(new) != len(old) or sides_of(held, len(old)) != old:
        raise RekernelError(
            f"{shown(change.name)}: has no attention in windows of {old} tokens; the plan is for another model"
        )
    table = owner._parameters.get(TABLE)
    if (table is None) != (index is None) or min(new) < 1:
        raise RekernelError(
            f"{shown(change.name)}: has no attention in windows of {old} tokens; the plan is for another model"
        )
    if table is not None and index is not None:
        if table.shape[0] != math.prod(2 * n - 1 for n in new):
            raise RekernelError(f"{shown(change.name)}: its table does not fit windows of {new} tokens; plan again")
        device = None if index.device.type == "meta" else index.device
        rows = relative_index(new).to(device, index.dtype)
        edits.set_buffer(owner, INDEX, rows.flatten() if index.ndim == 1 else rows)
    _set_around(edits, change.name, old, new, plain=table is None)


def _set_around(edits: Edits, path: str, old: tuple[int, ...], new: tuple[int, ...], *, plain: bool) -> None:
    """Set the size in the module that shifts the windows and in those within it, with its shift and its mask.

    Then set it in the modules around that hold the same size, such as the stage of Video Swin, which makes the masks.
    """
    inner = not plain
    for name, module, what in holders_of_window(edits.model, path):
        same = sides_of(getattr(module, what), len(old)) == old
        if not inner and (not same or (not name and path)):
            break  # another size, or what the whole model was built with
        edits.set(module, what, _like(getattr(module, what), new))
        if isinstance(vars(module).get("window_area"), int):
            edits.set(module, "window_area", math.prod(new))
        if "shift_size" in vars(module):
            shift = module.shift_size
            sides = sides_of(shift, len(old)) or (0,) * len(old)
            grown = tuple(p * n // o for p, n, o in zip(sides, new, old, strict=True))
            edits.set(module, "shift_size", _like(shift, grown))
            mask = module._buffers.get(MASK)
            if isinstance(mask, Tensor):
                edits.set_buffer(module, MASK, enlarged_mask(mask, old, new))
            inner = False


def enlarged_mask(mask: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """The mask (windows, tokens, tokens) of windows whose tokens are each cut into as many as the scale says.

    A shift by s times as much on a grid s times as large has its borders between the same old tokens.

    Examples
    --------
    >>> enlarged_mask(torch.tensor([[[0.0, -1.0], [-1.0, 0.0]]]), (1, 2), (1, 4))[0, 0].tolist()
    [0.0, 0.0, -1.0, -1.0]
    """
    of_old = torch.arange(math.prod(old), device=mask.device).reshape(old)
    for axis, (o, n) in enumerate(zip(old, new, strict=True)):
        of_old = of_old.repeat_interleave(n // o, axis)
    token = of_old.flatten()
    return mask[..., token, :][..., token]


def _like(value: Any, new: tuple[int, ...]) -> Any:
    """`new` in the form of `value`: one number, a tuple or a list."""
    return type(value)(new) if isinstance(value, tuple | list) else new[0]
