"""Plan traced calls whose weights belong to single pixels of an image.

Scope: linear layers that read or write a flattened grid, position embeddings, sizes that modules hold. Not here: what
becomes of them (see `planning.rules`), nor which calls are of this kind (see `torch.planning.planner`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...plan.changes import LayerChange, ModuleChange
from ...planning.layers import Cells, Weight, grid_cells
from ...planning.rules import reads_grid, resized, values, writes_grid
from ...planning.settings import Settings
from ...resampling.geometry import new_size
from ..dtypes import dtype_name
from ..tracing.layer_call import LayerCall

Scales = tuple[float, ...]


def weight_of(name: str, tensor: Tensor) -> Weight:
    """Describe a tensor of the model for the rules."""
    return Weight(name, dtype_name(tensor.dtype), tuple(tensor.shape))


def linear_change(call: LayerCall, tensor: Tensor, scales: Scales, settings: Settings) -> LayerChange:
    """The change of a linear layer after a flatten: its weight absorbs the scale."""
    weight, grid = weight_of(call.weight, tensor), "x".join(map(str, call.grid))
    cells = _cells(call, weight.shape[1], scales)
    return reads_grid(weight, 1, cells, settings, f"fully connected: reads a {grid} grid, {call.order}")


def written_change(call: LayerCall, name: str, tensor: Tensor, scales: Scales, settings: Settings) -> LayerChange:
    """The change of the weight or the bias of a linear layer that writes a grid: its rows are interpolated."""
    weight, grid = weight_of(name, tensor), "x".join(map(str, call.grid))
    cells = _cells(call, weight.shape[0], scales)
    return writes_grid(weight, 0, cells, settings, f"fully connected: writes a {grid} grid, {call.order}: values")


def positions_change(call: LayerCall, tensor: Tensor, scales: Scales, settings: Settings) -> LayerChange:
    """The change of the position embeddings of a token grid that grows; class tokens stay in front."""
    reason = (
        f"position embeddings on a {'x'.join(map(str, call.size))} grid: values, no coefficient; "
        f"{call.prefix} class tokens kept"
    )
    cells = sizes(call.size, scales)
    if tensor.ndim > 3:  # a table with an axis for each of the grid's: (1, H, W, C) or (1, C, H, W)
        count = len(call.size)
        first = next((i for i in (1, 2) if tuple(tensor.shape[i : i + count]) == call.size), 1)
        each = {first + i: [cell] for i, cell in enumerate(cells)}
        return values(weight_of(call.weight, tensor), each, settings, reason)
    return values(weight_of(call.weight, tensor), {tensor.ndim - 2: cells}, settings, reason, prefix=call.prefix)


def unflatten_fits(call: LayerCall, module: Any) -> bool:
    """Whether the sizes of an nn.Unflatten show which of them are pixels."""
    sizes = getattr(module, "unflattened_size", ())
    orders = {"channels-first": call.grid, "channels-last": (*call.grid[1:], call.grid[0])}
    return call.order in orders and tuple(sizes) == orders[call.order] and len(set(sizes)) > 1


def grown(call: LayerCall, name: str, kind: str, scales: Scales) -> ModuleChange:
    """The change of a module that holds the size of a grid, or is the first to read the grid."""
    return resized(name, kind, sizes(call.size, scales), f"pixels that {call.weight} writes")


def sizes(old: tuple[int, ...], scales: Scales) -> list[Cells]:
    """The sizes of a grid before and after, one per spatial axis."""
    return [Cells(n, new_size(n, scale)) for n, scale in zip(old, scales, strict=True)]


def size_taken_over(
    call: LayerCall, arriving: Scales, known: Mapping[int, tuple[int, ...]], scales: Mapping[int, Scales]
) -> Scales:
    """The scale of what an up-sampling gives that is asked for a size in pixels, though its own input does not grow.

    A pyramid of poolings enlarges each of its grids to the size of the features that it read (PSPNet, UperNet). So the
    last grid of that size before the call tells the scale. The pass at the new size shows whether that is right.

    Parameters
    ----------
    arriving : tuple of float
        Scale of the grid that the call reads.
    known, scales : {index: size}, {index: scales}
        Size and scale of what each call before this one gives.
    """
    if not call.fixed or all(s != 1 for s in arriving):
        return arriving
    same = [i for i, size in known.items() if i and size == call.out_size and any(s != 1 for s in scales.get(i, ()))]
    if not same or len(scales[max(same)]) != len(arriving):
        return arriving
    return tuple(s if s != 1 else taken for s, taken in zip(arriving, scales[max(same)], strict=True))


def arriving_scales(call: LayerCall, scales: Mapping[int, Scales], known: Mapping[int, tuple[int, ...]]) -> set[Scales]:
    """The scales of the grids that a call reads, for its spatial axes; one if they agree.

    A strip of pixels that was broadcast (the mean of each row, say) has the scales of the others across the strip.

    Parameters
    ----------
    scales, known : {index: scales}, {index: size}
        Scale and size of what each call before this one gives.
    """
    found = []
    for source in sorted(call.sources):
        size = known.get(source, ())
        each: list[float | None] = list(scales_on_axes(call, scales.get(source, ()), size))
        if len(each) == len(size) == len(call.size) and not _is_turned(size, call.size):
            each = [None if n == 1 < m else s for s, n, m in zip(each, size, call.size, strict=True)]
        found.append(each)
    longest = max(map(len, found), default=0)
    across = [next((e[i] for e in found if i < len(e) and e[i] is not None), 1.0) for i in range(longest)]
    return {tuple(across[i] or 1.0 if s is None else s for i, s in enumerate(each)) for each in found}


def scales_on_axes(call: LayerCall, scales: Scales, size: tuple[int, ...]) -> Scales:
    """The scales of a grid for the spatial axes of a call that reads it.

    Parameters
    ----------
    call : LayerCall
    scales, size
        Scales and old size of the grid, one number per spatial axis of the call that wrote it.
    """
    count = len(call.size) or len(scales)
    if count == len(scales):
        return _across(scales, size, call.size) if len(size) == len(call.size) else scales
    # A video model folds time (or space) into the batch: the sizes tell which axes remain.
    for start in range(len(size) - count, -1, -1):
        if size[start : start + count] == call.size:
            return scales[start : start + count]
    if is_flattened(call, size):
        return (math.prod(new_size(n, s) for n, s in zip(size, scales, strict=True)) / math.prod(size),)
    if 0 < len(scales) < count:  # images stacked to a video: the new axis keeps its size
        starts = range(count - len(size), -1, -1)
        start = next((i for i in starts if call.size[i : i + len(size)] == size), starts[0])
        return (1.0,) * start + scales + (1.0,) * (count - start - len(scales))
    return scales[len(scales) - count :] if scales else ()


def is_flattened(call: LayerCall, size: tuple[int, ...]) -> bool:
    """Whether a pointwise convolution reads the pixels of a grid of this size one behind the other, as a signal.

    A longer kernel would mix the end of a row with the start of the next, which a larger grid has at another place.

    Examples
    --------
    >>> read = LayerCall(2, "conv", "mix", frozenset({1}), size=(64,), kernel=(1,))
    >>> is_flattened(read, (8, 8)), is_flattened(read, (64,))
    (True, False)
    """
    pointwise = call.kind == "conv" and max(call.kernel, default=0) == 1
    return pointwise and len(call.size) == 1 < len(size) and call.size[0] == math.prod(size)


def grid_given(
    call: LayerCall, leaving: Scales, scales: Mapping[int, Scales], known: Mapping[int, tuple[int, ...]]
) -> tuple[Scales, tuple[int, ...]]:
    """Scales and size of the grid on which the result of a call lies.

    A pointwise convolution of flattened pixels leaves each on its place, and code may make them the grid again.
    """
    source = next((i for i in sorted(call.sources) if is_flattened(call, known.get(i, ()))), None)
    return (leaving, call.out_size) if source is None else (scales[source], known[source])


def _across(scales: Scales, before: tuple[int, ...], now: tuple[int, ...]) -> Scales:
    """The scales of a grid of which a strip of pixels was made, or of a strip that was turned."""
    if _is_turned(before, now):
        scale = scales[_long(before)[0]]
        return tuple(scale if i == _long(now)[0] else 1.0 for i in range(len(scales)))
    return tuple(1.0 if m == 1 < n else s for s, n, m in zip(scales, before, now, strict=True))


def _is_turned(before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    """Whether a column of pixels was turned into a row, or a row into a column."""
    return len(_long(before)) == len(_long(now)) == 1 and _long(before) != _long(now)


def _long(size: tuple[int, ...]) -> list[int]:
    return [axis for axis, n in enumerate(size) if n > 1]


def _cells(call: LayerCall, entries: int, scales: Scales) -> tuple[Cells, ...]:
    spatial = [cells.new for cells in sizes(call.grid[1:], scales)]
    return grid_cells(entries, call.grid, (call.grid[0], *spatial), call.order)
