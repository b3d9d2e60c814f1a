"""Changes of weights that belong to the pixels of a finite image: patches, flattened grids, position embeddings.

Knows one call and its tensor; which calls are such is `planner`'s.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ...plan.changes import AxisGeometry, AxisOperator, LayerChange, ModuleChange
from ...planning.settings import Settings
from ...resampling.geometry import new_size
from ..dtypes import dtype_name
from ..layers.padding import own_padding
from ..tracing.recorder import Call

Scales = tuple[float, ...]


def is_patch(call: Call, layer: Any) -> bool:
    """Whether a convolution reads patches beside each other."""
    padded = any(any(pair) for pair in (*own_padding(layer), *call.by_hand))
    return not padded and tuple(layer.kernel_size) == tuple(layer.stride) and set(layer.dilation) == {1}


def patch_change(call: Call, weight: Tensor, scales: Scales, s: Settings) -> LayerChange:
    """A patch embedding that absorbs: each patch is an image of its own, a grid and not a sliding filter."""
    shape = tuple(weight.shape)
    kernel = shape[2:]
    new = tuple(
        new_size(k, x, exact=True, what=f"{call.weight}: a patch of {k} pixels")
        for k, x in zip(kernel, scales, strict=True)
    )
    operators = tuple(
        AxisOperator(axis + 2, k, n, "grid", n / k, s.grid_method(), s.gain, a=s.a, smoothness=s.smoothness)
        for axis, (k, n) in enumerate(zip(kernel, new, strict=True))
        if n != k
    )
    return LayerChange(
        call.weight, dtype_name(weight.dtype), shape, (*shape[:2], *new), "patch",
        f"patches of {'x'.join(map(str, kernel))} pixels: absorbs", view=shape, operators=operators,
        geometry=tuple(AxisGeometry(k, k, (0, 0)) for k in kernel),
        new_geometry=tuple(AxisGeometry(n, n, (0, 0)) for n in new),
    )  # fmt: skip


def linear_change(call: Call, weight: Tensor, scales: Scales, s: Settings) -> LayerChange:
    """A linear layer behind a flatten: it absorbs."""
    new = tuple(new_size(n, x) for n, x in zip(call.grid[1:], scales, strict=True))
    first = 2 if call.order == "channels-first" else 1
    cells = call.grid if call.order == "channels-first" else (*call.grid[1:], call.grid[0])
    operators = tuple(
        AxisOperator(first + i, n, m, "grid", m / n, s.grid_method(), s.gain, a=s.a, smoothness=s.smoothness)
        for i, (n, m) in enumerate(zip(call.grid[1:], new, strict=True))
        if n != m
    )
    shape = tuple(weight.shape)
    grid = "x".join(map(str, call.grid))
    return LayerChange(
        call.weight, dtype_name(weight.dtype), shape, (shape[0], call.grid[0] * math.prod(new)), "linear-in",
        f"fully connected: reads a {grid} grid, {call.order}", view=(shape[0], *cells), operators=operators,
    )  # fmt: skip


def written_change(call: Call, name: str, tensor: Tensor, scales: Scales, s: Settings) -> LayerChange:
    """A linear layer that writes a grid: its rows, and its bias, are values there, without a coefficient."""
    new = tuple(new_size(n, x) for n, x in zip(call.grid[1:], scales, strict=True))
    first = 1 if call.order == "channels-first" else 0
    cells = call.grid if call.order == "channels-first" else (*call.grid[1:], call.grid[0])
    operators = tuple(
        AxisOperator(first + i, n, m, "grid", m / n, s.values_method(), "none", a=s.a, smoothness=s.smoothness)
        for i, (n, m) in enumerate(zip(call.grid[1:], new, strict=True))
        if n != m
    )
    shape = tuple(tensor.shape)
    grid = "x".join(map(str, call.grid))
    return LayerChange(
        name, dtype_name(tensor.dtype), shape, (call.grid[0] * math.prod(new), *shape[1:]), "linear-out",
        f"fully connected: writes a {grid} grid, {call.order}: values", view=(*cells, *shape[1:]), operators=operators,
    )  # fmt: skip


def unflatten_fits(call: Call, module: Any) -> bool:
    """Whether an nn.Unflatten says by itself which of its sizes are pixels."""
    sizes = getattr(module, "unflattened_size", ())
    orders = {"channels-first": call.grid, "channels-last": (*call.grid[1:], call.grid[0])}
    return call.order in orders and tuple(sizes) == orders[call.order] and len(set(sizes)) > 1


def grown(call: Call, name: str, kind: str, scales: Scales) -> ModuleChange:
    """A grid whose size a module holds, or meets first, `scales` times larger."""
    before = tuple(AxisGeometry(n, 1, (0, 0)) for n in call.size)
    after = tuple(AxisGeometry(new_size(n, s), 1, (0, 0)) for n, s in zip(call.size, scales, strict=True))
    return ModuleChange(name, kind, f"pixels that {call.weight} writes", before, after)


def positions_change(call: Call, weight: Tensor, scales: Scales, s: Settings) -> LayerChange:
    """Position embeddings of a token grid that grows: values, without a coefficient; class tokens stay."""
    shape, axis = tuple(weight.shape), weight.ndim - 2
    new = tuple(new_size(n, x) for n, x in zip(call.size, scales, strict=True))
    operators = tuple(
        AxisOperator(axis + i, n, m, "grid", m / n, s.values_method(), "none", a=s.a, smoothness=s.smoothness)
        for i, (n, m) in enumerate(zip(call.size, new, strict=True))
        if n != m
    )
    grid = "x".join(map(str, call.size))
    new_shape = (*shape[:axis], call.prefix + math.prod(new), shape[-1])
    return LayerChange(
        call.weight, dtype_name(weight.dtype), shape, new_shape, "values",
        f"position embeddings on a {grid} grid: values, no coefficient; {call.prefix} class tokens kept",
        view=(*shape[:axis], *call.size, shape[-1]), operators=operators, prefix=call.prefix, grid_axis=axis,
    )  # fmt: skip
