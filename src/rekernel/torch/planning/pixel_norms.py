"""Plan layer norms with a weight for every pixel, `nn.LayerNorm([C, H, W])`: their weights are values on the grid.

Scope: modules of torch in a trace. Not here: what becomes of values (see `planning.rules`), and setting the new shape
(see `torch.editing.apply`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import shown
from ...plan.changes import LayerChange, ModuleChange
from ...planning.layers import Cells
from ...planning.rules import resized, values
from ...planning.settings import Settings
from ...resampling.geometry import new_size
from ...text import dims
from ..tracing.run import Trace
from .grids import Scales, weight_of

Changes = tuple[dict[str, LayerChange], dict[str, ModuleChange]]


def pixel_norms(
    model: nn.Module, trace: Trace, grids: Sequence[tuple[tuple[int, ...], Scales]], settings: Settings, *,
    aligned: bool, excluded: Collection[str],
) -> Changes:  # fmt: skip
    """The changes of all layer norms that normalise over a grid which grows.

    Parameters
    ----------
    grids : sequence of (size, scales)
        The grids that layers give, before rescaling.
    settings : Settings
        How values are interpolated.
    aligned : bool
        Whether pixel 0 stays pixel 0; each pixel's value is then that of the pixels that it becomes.
    excluded : collection of str
        Names of the tensors that are not selected.

    Raises
    ------
    RekernelError
        If it is not clear by how much the grid of a norm grows, or if its weight is not selected.
    """
    changes: dict[str, LayerChange] = {}
    modules: dict[str, ModuleChange] = {}
    settings = replace(settings, method="nearest") if aligned else settings
    for path, size in _over_pixels(model, trace).items():
        scales = {s for n, s in grids if n == size and len(s) == len(size)}
        if not scales or all(n == 1 for s in scales for n in s):
            continue
        norm: Any = model.get_submodule(path)
        shape = dims(norm.normalized_shape)
        names = [f"{path}.{leaf}".removeprefix(".") for leaf in ("weight", "bias") if getattr(norm, leaf) is not None]
        if len(scales) > 1 or any(name in excluded for name in names):
            why = "is not selected" if len(scales) == 1 else "and other layers give this grid at several scales"
            raise RekernelError(
                f"{shown(path) if path else 'the model itself'}: a layer norm with a weight for every pixel ({shape}), "
                f"{why}; normalise over the channels alone"
            )
        (scale,) = scales
        first = len(norm.normalized_shape) - len(size)
        cells = [Cells(n, new_size(n, s)) for n, s in zip(size, scale, strict=True)]
        for name in names:
            tensor: Tensor = getattr(norm, name.rpartition(".")[2])
            at = {first + axis: [cell] for axis, cell in enumerate(cells)}
            why = f"a norm over {shape}: values, no coefficient"
            changes[name] = values(weight_of(name, tensor), at, settings, why)
        modules[path] = resized(path, "layer-norm", cells, f"a norm over {shape}")
    return changes, modules


def _over_pixels(model: nn.Module, trace: Trace) -> dict[str, tuple[int, ...]]:
    """The paths of the layer norms whose last axes are those of an image (N, C, *spatial), with these axes."""
    found = {}
    modules, dims = dict(model.named_modules()), len(trace.size)
    for step in trace.log.steps:
        norm = modules.get(step.module)
        if step.name != "layer_norm" or not isinstance(norm, nn.LayerNorm) or not step.operands:
            continue
        x, over = step.operands[0], tuple(norm.normalized_shape)
        spatial = x.shape[-dims:]
        # Of a signal (N, C, T) and of tokens (N, T, C) the last axis alone does not tell which it is.
        told = len(over) > dims or dims > 1
        if x.image and len(x.shape) == dims + 2 and told and over[-dims:] == spatial and max(spatial) > 1:
            found[step.module] = spatial
    return found
