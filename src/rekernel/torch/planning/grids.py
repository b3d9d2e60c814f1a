"""Traced calls whose weights belong to the pixels of a finite image, as the shared rules take them.

Scope: flattened grids that a linear layer reads or writes, position embeddings, sizes that modules hold. Not here: what
becomes of them (see `planning.rules`), nor which calls are of this kind (see `planner`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...plan.changes import LayerChange, ModuleChange
from ...planning.layers import Cells, Weight, grid_cells
from ...planning.rules import reads_grid, resized, values, writes_grid
from ...planning.settings import Settings
from ...resampling.geometry import new_size
from ..dtypes import dtype_name
from ..tracing.recorder import Call

Scales = tuple[float, ...]


def weight_of(name: str, tensor: Tensor) -> Weight:
    """A tensor of the model, as the rules take it."""
    return Weight(name, dtype_name(tensor.dtype), tuple(tensor.shape))


def linear_change(call: Call, tensor: Tensor, scales: Scales, settings: Settings) -> LayerChange:
    """A linear layer behind a flatten: its weight absorbs the scale."""
    weight, grid = weight_of(call.weight, tensor), "x".join(map(str, call.grid))
    cells = _cells(call, weight.shape[1], scales)
    return reads_grid(weight, 1, cells, settings, f"fully connected: reads a {grid} grid, {call.order}")


def written_change(call: Call, name: str, tensor: Tensor, scales: Scales, settings: Settings) -> LayerChange:
    """A linear layer that writes a grid: the rows of its weight, and its bias, are values there."""
    weight, grid = weight_of(name, tensor), "x".join(map(str, call.grid))
    cells = _cells(call, weight.shape[0], scales)
    return writes_grid(weight, 0, cells, settings, f"fully connected: writes a {grid} grid, {call.order}: values")


def positions_change(call: Call, tensor: Tensor, scales: Scales, settings: Settings) -> LayerChange:
    """Position embeddings of a token grid that grows; class tokens stay in front."""
    reason = (
        f"position embeddings on a {'x'.join(map(str, call.size))} grid: values, no coefficient; "
        f"{call.prefix} class tokens kept"
    )
    cells = {tensor.ndim - 2: sizes(call.size, scales)}
    return values(weight_of(call.weight, tensor), cells, settings, reason, prefix=call.prefix)


def unflatten_fits(call: Call, module: Any) -> bool:
    """Whether an nn.Unflatten says by itself which of its sizes are pixels."""
    sizes = getattr(module, "unflattened_size", ())
    orders = {"channels-first": call.grid, "channels-last": (*call.grid[1:], call.grid[0])}
    return call.order in orders and tuple(sizes) == orders[call.order] and len(set(sizes)) > 1


def grown(call: Call, name: str, kind: str, scales: Scales) -> ModuleChange:
    """A grid whose size a module holds, or meets first, `scales` times larger."""
    return resized(name, kind, sizes(call.size, scales), f"pixels that {call.weight} writes")


def sizes(old: tuple[int, ...], scales: Scales) -> list[Cells]:
    """The sizes of a grid before and after, one per spatial axis."""
    return [Cells(n, new_size(n, scale)) for n, scale in zip(old, scales, strict=True)]


def _cells(call: Call, entries: int, scales: Scales) -> tuple[Cells, ...]:
    spatial = [cells.new for cells in sizes(call.grid[1:], scales)]
    return grid_cells(entries, call.grid, (call.grid[0], *spatial), call.order)
