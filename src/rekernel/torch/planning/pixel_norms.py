"""Plan layer norms with a weight for every pixel, `nn.LayerNorm([C, H, W])`: their weights are values on the grid.

Scope: modules of torch in a trace. Not here: what becomes of values (see `planning.rules`), and setting the new shape
(see `torch.editing.apply`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
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
from ..tracing.layer_call import LayerCall
from ..tracing.run import Trace
from ..tracing.steps import Step
from .grids import Scales, weight_of

Changes = tuple[dict[str, LayerChange], dict[str, ModuleChange]]


def pixel_norms(
    model: nn.Module, trace: Trace, grids: Mapping[int, tuple[tuple[int, ...], Scales]], settings: Settings, *,
    aligned: bool, excluded: Collection[str],
) -> Changes:  # fmt: skip
    """The changes of all layer norms that normalise over a grid which grows.

    Parameters
    ----------
    grids : {index of a call: (size, scales)}
        The grids that layers give, before rescaling; 0 is the image.
    settings : Settings
        How values are interpolated.
    aligned : bool
        Whether pixel 0 stays pixel 0; each pixel's value is then that of the pixels that it becomes.
    excluded : collection of str
        Names of the tensors that are not selected.

    Raises
    ------
    RekernelError
        If the weight of a norm whose grid grows is not selected.
    """
    changes: dict[str, LayerChange] = {}
    modules: dict[str, ModuleChange] = {}
    settings = replace(settings, method="nearest") if aligned else settings
    for path, (size, index) in _over_pixels(model, trace).items():
        scale = grids[index][1] if index in grids and len(grids[index][1]) == len(size) else ()
        if all(s == 1 for s in scale):
            continue
        norm: Any = model.get_submodule(path)
        shape = dims(norm.normalized_shape)
        names = [f"{path}.{leaf}".removeprefix(".") for leaf in ("weight", "bias") if getattr(norm, leaf) is not None]
        if any(name in excluded for name in names):
            raise RekernelError(
                f"{shown(path) if path else 'the model itself'}: a layer norm with a weight for every pixel ({shape}), "
                f"whose grid grows, is not selected; leave it out of exclude=, or put it into include="
            )
        first = len(norm.normalized_shape) - len(size)
        cells = [Cells(n, new_size(n, s)) for n, s in zip(size, scale, strict=True)]
        for name in names:
            tensor: Tensor = getattr(norm, name.rpartition(".")[2])
            at = {first + axis: [cell] for axis, cell in enumerate(cells)}
            why = f"a norm over {shape}: values, no coefficient"
            changes[name] = values(weight_of(name, tensor), at, settings, why)
        modules[path] = resized(path, "layer-norm", cells, f"a norm over {shape}")
    return changes, modules


def _over_pixels(model: nn.Module, trace: Trace) -> dict[str, tuple[tuple[int, ...], int]]:
    """The layer norms whose last axes are those of an image (N, C, *spatial), by path: these axes, and the call that
    gave the grid. The call is 0 for the image itself.
    """
    found = {}
    modules, count = dict(model.named_modules()), len(trace.size)
    image = next((o.shape for step in trace.log.steps for o in step.operands if o.image), ())
    given = [_Grid(0, trace.size, image)]
    waiting = [call for call in trace.calls if call.out_size]
    for step in trace.log.steps:
        at = next((at for at, call in enumerate(waiting) if _gives(step, call)), None)
        if at is not None:
            given.append(_Grid(waiting[at].index, waiting[at].out_size, step.results[0].shape))
            del waiting[: at + 1]
        norm = modules.get(step.module)
        if step.name != "layer_norm" or not isinstance(norm, nn.LayerNorm) or not step.operands:
            continue
        x, over = step.operands[0], tuple(norm.normalized_shape)
        spatial = x.shape[-count:]
        # Of a signal (N, C, T) and of tokens (N, T, C) the last axis alone does not tell which it is.
        told = len(over) > count or count > 1
        if x.image and len(x.shape) == count + 2 and told and over[-count:] == spatial and max(spatial) > 1:
            later = [_Grid(call.index, call.out_size) for call in trace.calls]  # where no step of its own gave the grid
            found[step.module] = spatial, _giver(given, x.shape, spatial) or _giver(later, x.shape, spatial) or 0
    return found


@dataclass(frozen=True)
class _Grid:
    """A grid that a call gave: index of the call, size of the grid, and shape of the tensor that lies on it."""

    index: int
    size: tuple[int, ...]
    shape: tuple[int, ...] = ()


def _gives(step: Step, call: LayerCall) -> bool:
    """Whether a step of a pass is the function of a call: it runs in the same module and gives the same grid."""
    shapes = [result.shape[-len(call.out_size) :] for result in step.results[:1]]
    return step.module == call.module and shapes == [call.out_size]


def _giver(grids: Sequence[_Grid], shape: tuple[int, ...], size: tuple[int, ...]) -> int | None:
    """The call that gave a tensor of this shape: the last one with as many channels, or else with such a grid."""
    same = [grid for grid in grids if grid.size == size]
    alike = [grid for grid in same if grid.shape == shape] or same
    return alike[-1].index if alike else None
