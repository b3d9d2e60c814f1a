"""Join the two tensors of a rescaled weight norm to the weight that they make, as a rescaled model holds it.

Scope: the names, shapes and values of these tensors. Not here: which are rescaled (see `planning.weight_norm`), and
giving the layers of the model plain weights (see `torch.editing.bake`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...checkpoint.tensor_source import TensorSource
from ...plan.plan import Plan
from ..dtypes import TORCH_DTYPES
from .file_tensors import Converted, Incoming

_DIRECTIONS = (".parametrizations.weight.original1", ".weight_v")


def joined(plan: Plan, given: Incoming, source: TensorSource) -> tuple[Plan, Incoming]:
    """The plan and the tensors of a file, with one weight in the place of each rescaled weight norm.

    Parameters
    ----------
    plan : Plan
        With the names that the tensors have in the module.
    """
    lengths = {change.length_of: change.name for change in plan.changed if change.length_of}
    if not lengths:
        return plan, given
    changes = []
    groups = []
    for change in plan.changes:
        if change.name in lengths:
            weight = _weight_name(change.name)
            files = tuple(given.files[name] for name in (lengths[change.name], change.name))
            info = source.tensors[files[1]]
            empty = torch.empty(info.shape, dtype=TORCH_DTYPES[info.dtype], device="meta")
            groups.append(Converted(files, _product(weight), {weight: empty}))
            change = replace(change, name=weight)
        if not change.length_of:
            changes.append(change)
    return replace(plan, changes=tuple(changes)), given.with_converted(groups)


def _weight_name(direction: str) -> str:
    for end in _DIRECTIONS:
        if f".{direction}".endswith(end):
            return f"{f'.{direction}'.removesuffix(end)}.weight".removeprefix(".")
    return direction


def _product(name: str) -> Callable[[Sequence[Tensor]], Mapping[str, Tensor]]:
    def convert(tensors: Sequence[Tensor]) -> Mapping[str, Tensor]:
        g, v = (t if t.dtype == torch.float64 else t.float() for t in tensors)
        others = [axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1]
        norm = v.square().sum(others, keepdim=True).sqrt()
        return {name: (g.reshape(norm.shape) * (v / norm)).to(tensors[1].dtype)}

    return convert
