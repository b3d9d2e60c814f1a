"""Plan attention windows, as in Swin: the windows grow with their grid, and so does the table of relative positions.

Scope: modules with the attributes `relative_position_bias_table` and `relative_position_index`, as in the Swin, Donut
and MaskFormer of transformers, and windows without a table of their own or with one that the model's code interpolates
(Twins, DaViT, SAM, ViTDet). Not here: changing these modules (see `torch.editing.windows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import shown
from ...plan.changes import LayerChange, ModuleChange
from ...planning.layers import Cells
from ...planning.rules import resized, values
from ...planning.settings import Settings
from ...resampling.geometry import is_whole, new_size
from ..layers.relative_positions import INDEX, MASK, TABLE, holders_of_window, relative_index, sides_of
from .grids import Scales, weight_of

_INTERPOLATED = ("rel_pos_h", "rel_pos_w")
"""Tables that SAM and ViTDet interpolate themselves, to as many tokens as there are."""
_COUNTS = ("query_stride", "q_stride")
"""Attributes beside which a window size is a number of tokens in an order of their own, as in Hiera."""


@dataclass(frozen=True)
class AttentionWindow:
    """The windows of one attention module.

    owner : path of the module that holds the table; without a table, of the module that holds the size of the windows
    size : number of tokens of a window along each axis
    table : name of the table of relative positions, or empty
    reason : why the windows cannot grow, or empty
    masked : whether the module keeps a mask that was computed for one size of the image
    """

    owner: str
    size: tuple[int, ...]
    table: str = ""
    reason: str = ""
    masked: bool = False

    def unfit(self, scales: Scales) -> str:
        """Why the windows cannot grow by `scales`; empty if they can."""
        if self.reason:
            return self.reason
        new = [n * s for n, s in zip(self.size, scales, strict=True)] if len(scales) == len(self.size) else [0.5]
        if any(abs(n - round(n)) > 1e-6 for n in new) or (self.masked and not all(map(is_whole, scales))):
            return f"times {scales} is not a whole number"
        return ""

    def note(self, where: str, why: str) -> str:
        """The note about windows of the module `where` that do not grow.

        Raises
        ------
        RekernelError
            If the windows have a mask, which would be that of another grid.
        """
        size = "x".join(map(str, self.size))
        if self.masked:
            raise RekernelError(
                f"{shown(where)}: attends in windows of {size} tokens with a mask for one size of the image, and these "
                f"cannot grow ({why}); let the layer that reads the image absorb the scale: mode='absorb'"
            )
        return (
            f"{where}: attention in windows of {size} tokens, which do not grow ({why}); each covers a smaller part of "
            f"the image"
        )


def window_of(model: nn.Module, path: str, keys: int = 0, dims: int = 2) -> AttentionWindow | None:
    """The windows of the attention module at `path`; None if it attends to the whole grid.

    Parameters
    ----------
    keys : int
        Number of tokens that each token attends to.
    dims : int
        Number of axes of the grid.

    Examples
    --------
    >>> window_of(nn.Sequential(nn.Linear(2, 2)), "0") is None
    True
    """
    around = [
        (name, m, size)
        for name, m, what in holders_of_window(model, path)
        if (size := sides_of(getattr(m, what), dims)) and max(size) > 1 and not any(hasattr(m, c) for c in _COUNTS)
    ]
    cutter = next((held for held in around if hasattr(held[1], "shift_size")), None)
    cutter = cutter or next((held for held in around if math.prod(held[2]) == keys), None)
    if cutter is None:
        return None
    masked = isinstance(getattr(cutter[1], MASK, None), Tensor)
    # The softmax may be a module of its own; then the module around it that holds the size holds the table.
    base, inside = next(
        ((where, tables) for where in (path, around[0][0]) if (tables := _tables_in(model, where))), (path, [])
    )
    if not inside:
        size = next((n for _, _, n in around if math.prod(n) == keys), cutter[2])
        if any(_depends_on(tensor, size) for tensor in _own_tensors(cutter[1])):
            reason = "there is no table of relative positions that could be interpolated"
            return AttentionWindow(cutter[0], size, reason=reason, masked=masked)
        return AttentionWindow(next(name for name, _, n in around if n == size), size, masked=masked)
    if len(inside) > 1:
        return AttentionWindow(cutter[0], cutter[2], reason="there are several tables", masked=masked)
    owner = ".".join(p for p in (base, inside[0]) if p)
    found: Any = model.get_submodule(owner)
    # The module that cuts the windows makes them smaller on a small grid. The owner of the table does not.
    size = sides_of(getattr(found, "window_size", None), dims) or cutter[2]
    table: Tensor = found._parameters[TABLE]
    name = f"{owner}.{TABLE}".removeprefix(".")
    index = getattr(found, INDEX, None)
    unknown = "the table of relative positions has an unknown layout"
    if table.ndim != 2 or table.shape[0] != math.prod(2 * n - 1 for n in size) or not isinstance(index, Tensor):
        return AttentionWindow(owner, size, name, unknown, masked)
    if index.device.type != "meta" and not torch.equal(index.flatten().cpu(), relative_index(size).flatten()):
        return AttentionWindow(owner, size, name, unknown, masked)
    return AttentionWindow(owner, size, name, masked=masked)


def _tables_in(model: nn.Module, path: str) -> list[str]:
    """The paths, within a module, of those that hold a table of relative positions."""
    inside = model.get_submodule(path).named_modules()
    return [name for name, m in inside if isinstance(m._parameters.get(TABLE), nn.Parameter)]


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """The tensors within a module that belong to no layer of torch, but for those that the model interpolates."""
    for part in module.modules():
        if type(part).__module__.startswith("torch.nn."):
            continue
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None and name not in (*_INTERPOLATED, MASK):
                yield tensor


def _depends_on(tensor: Tensor, size: tuple[int, ...]) -> bool:
    """Whether a tensor seems to have an entry for each token of a window, for each pair, or for each distance."""
    count = math.prod(size)
    sides = {*size, *(2 * n - 1 for n in size), count, count**2, math.prod(2 * n - 1 for n in size)}
    return bool(sides & {n for n in tensor.shape if n > 1})


def window_changes(
    window: AttentionWindow, table: Tensor | None, scales: Scales, settings: Settings
) -> tuple[LayerChange | None, ModuleChange]:
    """The changes of the table, if there is one, and of the window.

    The table is interpolated as values on its grid of 2n-1 distances along each axis, as timm and transformers do it.
    """
    tokens = [Cells(n, new_size(n, scale, exact=True)) for n, scale in zip(window.size, scales, strict=True)]
    before, after = ("x".join(map(str, side)) for side in (window.size, [cells.new for cells in tokens]))
    resizing = resized(window.owner, "window", tokens, f"{before} -> {after} tokens")
    if table is None:
        return None, resizing
    change = values(
        weight_of(window.table, table), {0: [Cells(2 * cells.old - 1, 2 * cells.new - 1) for cells in tokens]},
        settings,
        f"relative positions in windows of {before} tokens: values, no coefficient",
    )  # fmt: skip
    return change, resizing
