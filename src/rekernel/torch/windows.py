"""Attention in windows, as Swin does it: windows that grow with their grid, and the table of relative positions.

Knows modules by what they hold (`relative_position_bias_table`, `relative_position_index`, `window_size`,
`shift_size`), as transformers' Swin, Donut and MaskFormer do; no trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..changes import AxisGeometry, AxisOperator, LayerChange, ModuleChange
from ..errors import RekernelError
from ..escape import shown
from ..geometry import new_size
from ..settings import Settings
from .dtypes import dtype_name
from .edits import Edits
from .grids import Scales
from .names import owner_of

_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"


@dataclass(frozen=True)
class Window:
    """The windows of one attention.

    owner : path of the module that holds their table, or of the one that cuts them where there is no table
    size : tokens along each axis
    table : name of the table, or empty
    reason : why they cannot grow, or empty
    """

    owner: str
    size: tuple[int, ...]
    table: str = ""
    reason: str = ""

    def unfit(self, scales: Scales) -> str:
        """Why they cannot grow by `scales`; empty where they can."""
        if self.reason:
            return self.reason
        new = [n * s for n, s in zip(self.size, scales, strict=True)] if len(scales) == len(self.size) else [0.5]
        return f"times {scales} they are not whole" if any(abs(n - round(n)) > 1e-6 for n in new) else ""


def window_of(model: nn.Module, path: str) -> Window | None:
    """The windows in which the attention of a module works; None where it has none.

    Examples
    --------
    >>> window_of(nn.Sequential(nn.Linear(2, 2)), "0") is None
    True
    """
    module = model.get_submodule(path)
    inside = [name for name, m in module.named_modules() if isinstance(m._parameters.get(_TABLE), nn.Parameter)]
    around = list(_around(model, path))
    cutter = next(((name, m) for name, m in around if hasattr(m, "window_size") and hasattr(m, "shift_size")), None)
    if cutter is None:
        return None
    size = _pair(cutter[1].window_size)
    if size is None:
        return None
    if len(inside) != 1:
        return Window(cutter[0], size, reason="it has no table of relative positions that could be interpolated")
    owner = ".".join(p for p in (path, inside[0]) if p)
    found: Any = model.get_submodule(owner)
    # The cutter clamps its window to a small grid; the table's owner does not.
    size = _pair(getattr(found, "window_size", None)) or size
    table: Tensor = found._parameters[_TABLE]
    name = f"{owner}.{_TABLE}".removeprefix(".")
    index = getattr(found, _INDEX, None)
    if table.ndim != 2 or table.shape[0] != (2 * size[0] - 1) * (2 * size[1] - 1) or not isinstance(index, Tensor):
        return Window(owner, size, name, "its table of relative positions is laid out in a way of its own")
    if index.device.type != "meta" and not torch.equal(index.flatten().cpu(), relative_index(size).flatten()):
        return Window(owner, size, name, "its table of relative positions is laid out in a way of its own")
    if isinstance(getattr(cutter[1], "attn_mask", None), Tensor):
        return Window(owner, size, name, "its mask was computed for one image size")
    return Window(owner, size, name)


def relative_index(size: tuple[int, ...]) -> Tensor:
    """Row of the table for each pair of tokens in a window of (h, w): (h*w, h*w), as Swin numbers them.

    Examples
    --------
    >>> relative_index((1, 2)).tolist()
    [[1, 0], [2, 1]]
    """
    h, w = size
    y, x = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    return (y[:, None] - y[None, :] + h - 1) * (2 * w - 1) + (x[:, None] - x[None, :] + w - 1)


def window_changes(window: Window, table: Tensor, scales: Scales, s: Settings) -> tuple[LayerChange, ModuleChange]:
    """The table as values on its (2h-1, 2w-1) grid, as timm and transformers resize it, and the larger window."""
    new = tuple(new_size(n, x, exact=True) for n, x in zip(window.size, scales, strict=True))
    cells = tuple(2 * n - 1 for n in window.size)
    operators = tuple(
        AxisOperator(i, 2 * n - 1, 2 * m - 1, "grid", (2 * m - 1) / (2 * n - 1), s.values_method(), "none",
                     a=s.a, smoothness=s.smoothness)
        for i, (n, m) in enumerate(zip(window.size, new, strict=True))
        if n != m
    )  # fmt: skip
    shape, heads = tuple(table.shape), int(table.shape[1])
    old_size, new_size = "x".join(map(str, window.size)), "x".join(map(str, new))
    change = LayerChange(
        window.table, dtype_name(table.dtype), shape, ((2 * new[0] - 1) * (2 * new[1] - 1), heads), "values",
        f"relative positions in windows of {old_size} tokens: values, no coefficient", view=(*cells, heads),
        operators=operators,
    )  # fmt: skip
    before, after = (tuple(AxisGeometry(n, n, (0, 0)) for n in size) for size in (window.size, new))
    return change, ModuleChange(window.owner, "window", f"{old_size} -> {new_size} tokens", before, after)


def enlarge_window(edits: Edits, change: ModuleChange) -> None:
    """Tell the table's owner, and the modules that cut and roll the windows, their new size."""
    owner = edits.model.get_submodule(change.name)
    index = owner._buffers.get(_INDEX)
    old, new = (tuple(g.kernel for g in geometry) for geometry in (change.geometry, change.new_geometry))
    if index is None or len(new) != 2 or _pair(getattr(owner, "window_size", None)) != old:
        raise RekernelError(f"{shown(change.name)}: has no attention in windows of {old} tokens: another model")
    table = owner._parameters.get(_TABLE)
    if table is None or min(new) < 1 or table.shape[0] != (2 * new[0] - 1) * (2 * new[1] - 1):
        raise RekernelError(f"{shown(change.name)}: its table does not fit windows of {new} tokens; plan again")
    device = None if index.device.type == "meta" else index.device
    rows = relative_index(new).to(device, index.dtype)
    edits.set_buffer(owner, _INDEX, rows.flatten() if index.ndim == 1 else rows)
    for _, module in _around(edits.model, change.name):
        edits.set(module, "window_size", _like(module.window_size, new))
        if isinstance(vars(module).get("window_area"), int):
            edits.set(module, "window_area", new[0] * new[1])
        if "shift_size" in vars(module):
            shift = module.shift_size
            pair = _pair(shift) or (0, 0)
            grown = tuple(p * n // o for p, n, o in zip(pair, new, old, strict=True))
            edits.set(module, "shift_size", _like(shift, grown))
            break


def _around(model: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    """The module at `path` and those that hold it, from the inside, as far as they know a window."""
    names = [path]
    while names[-1]:
        names.append(owner_of(names[-1]))
    for name in names:
        module = model.get_submodule(name)
        if "window_size" in vars(module):
            yield name, module


def _pair(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return tuple(value)
    return None


def _like(value: Any, new: tuple[int, ...]) -> Any:
    """`new` in the form that `value` has: one number, a tuple or a list."""
    return type(value)(new) if isinstance(value, tuple | list) else new[0]
