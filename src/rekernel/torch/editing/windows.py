"""Enlarge attention windows, in the module that holds their table and in those that cut the grid into windows.

Scope: changing modules. Not here: whether windows can grow (see `torch.planning.windows`).
"""

from __future__ import annotations

from typing import Any

from ...errors import RekernelError
from ...escape import shown
from ...plan.changes import ModuleChange
from ..layers.relative_positions import INDEX, TABLE, holders_of_window, pair_of, relative_index
from .edits import Edits


def enlarge_window(edits: Edits, change: ModuleChange) -> None:
    """Set the new window size in the module that holds the table, and in those that cut and shift the windows."""
    owner = edits.model.get_submodule(change.name)
    index = owner._buffers.get(INDEX)
    old, new = (tuple(g.kernel for g in geometry) for geometry in (change.geometry, change.new_geometry))
    if index is None or len(new) != 2 or pair_of(getattr(owner, "window_size", None)) != old:
        raise RekernelError(
            f"{shown(change.name)}: has no attention in windows of {old} tokens; the plan is for another model"
        )
    table = owner._parameters.get(TABLE)
    if table is None or min(new) < 1 or table.shape[0] != (2 * new[0] - 1) * (2 * new[1] - 1):
        raise RekernelError(f"{shown(change.name)}: its table does not fit windows of {new} tokens; plan again")
    device = None if index.device.type == "meta" else index.device
    rows = relative_index(new).to(device, index.dtype)
    edits.set_buffer(owner, INDEX, rows.flatten() if index.ndim == 1 else rows)
    for _, module in holders_of_window(edits.model, change.name):
        edits.set(module, "window_size", _like(module.window_size, new))
        if isinstance(vars(module).get("window_area"), int):
            edits.set(module, "window_area", new[0] * new[1])
        if "shift_size" in vars(module):
            shift = module.shift_size
            pair = pair_of(shift) or (0, 0)
            grown = tuple(p * n // o for p, n, o in zip(pair, new, old, strict=True))
            edits.set(module, "shift_size", _like(shift, grown))
            break


def _like(value: Any, new: tuple[int, ...]) -> Any:
    """`new` in the form of `value`: one number, a tuple or a list."""
    return type(value)(new) if isinstance(value, tuple | list) else new[0]
