"""Plan attention windows, as in Swin: the windows grow with their grid, and so does the table of relative positions.

Scope: modules with the attributes `relative_position_bias_table`, `relative_position_index`, `window_size` and
`shift_size`, as in the Swin, Donut and MaskFormer of transformers. Not here: changing these modules (see
`torch.editing.windows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...plan.changes import LayerChange, ModuleChange
from ...planning.layers import Cells
from ...planning.rules import resized, values
from ...planning.settings import Settings
from ...resampling.geometry import new_size
from ..layers.relative_positions import INDEX, TABLE, holders_of_window, pair_of, relative_index
from .grids import Scales, weight_of


@dataclass(frozen=True)
class AttentionWindow:
    """The windows of one attention module.

    owner : path of the module that holds the table; without a table, of the module that cuts the grid into windows
    size : number of tokens of a window along each axis
    table : name of the table of relative positions, or empty
    reason : why the windows cannot grow, or empty
    """

    owner: str
    size: tuple[int, ...]
    table: str = ""
    reason: str = ""

    def unfit(self, scales: Scales) -> str:
        """Why the windows cannot grow by `scales`; empty if they can."""
        if self.reason:
            return self.reason
        new = [n * s for n, s in zip(self.size, scales, strict=True)] if len(scales) == len(self.size) else [0.5]
        return f"times {scales} is not a whole number" if any(abs(n - round(n)) > 1e-6 for n in new) else ""


def window_of(model: nn.Module, path: str) -> AttentionWindow | None:
    """The windows of the attention module at `path`; None if it attends to the whole grid.

    Examples
    --------
    >>> window_of(nn.Sequential(nn.Linear(2, 2)), "0") is None
    True
    """
    module = model.get_submodule(path)
    inside = [name for name, m in module.named_modules() if isinstance(m._parameters.get(TABLE), nn.Parameter)]
    around = list(holders_of_window(model, path))
    cutter = next(((name, m) for name, m in around if hasattr(m, "window_size") and hasattr(m, "shift_size")), None)
    if cutter is None:
        return None
    size = pair_of(cutter[1].window_size)
    if size is None:
        return None
    if len(inside) != 1:
        reason = "there is no table of relative positions that could be interpolated"
        return AttentionWindow(cutter[0], size, reason=reason)
    owner = ".".join(p for p in (path, inside[0]) if p)
    found: Any = model.get_submodule(owner)
    # The module that cuts the windows makes them smaller on a small grid. The owner of the table does not.
    size = pair_of(getattr(found, "window_size", None)) or size
    table: Tensor = found._parameters[TABLE]
    name = f"{owner}.{TABLE}".removeprefix(".")
    index = getattr(found, INDEX, None)
    unknown = "the table of relative positions has an unknown layout"
    if table.ndim != 2 or table.shape[0] != (2 * size[0] - 1) * (2 * size[1] - 1) or not isinstance(index, Tensor):
        return AttentionWindow(owner, size, name, unknown)
    if index.device.type != "meta" and not torch.equal(index.flatten().cpu(), relative_index(size).flatten()):
        return AttentionWindow(owner, size, name, unknown)
    if isinstance(getattr(cutter[1], "attn_mask", None), Tensor):
        return AttentionWindow(owner, size, name, "the attention mask was computed for one image size")
    return AttentionWindow(owner, size, name)


def window_changes(
    window: AttentionWindow, table: Tensor, scales: Scales, settings: Settings
) -> tuple[LayerChange, ModuleChange]:
    """The changes of the table and of the window.

    The table is interpolated as values on its (2h-1, 2w-1) grid, as timm and transformers do it.
    """
    tokens = [Cells(n, new_size(n, scale, exact=True)) for n, scale in zip(window.size, scales, strict=True)]
    before, after = ("x".join(map(str, side)) for side in (window.size, [cells.new for cells in tokens]))
    change = values(
        weight_of(window.table, table), {0: [Cells(2 * cells.old - 1, 2 * cells.new - 1) for cells in tokens]},
        settings,
        f"relative positions in windows of {before} tokens: values, no coefficient",
    )  # fmt: skip
    return change, resized(window.owner, "window", tokens, f"{before} -> {after} tokens")
