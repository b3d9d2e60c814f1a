"""Refuse a checkpoint whose tensors or whose plan do not fit a model, before anything is loaded.

Scope: names, shapes and dtypes. Not here: reading and loading tensors (see `torch.files.save_load`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import shown
from ...plan.plan import Plan
from ...text import few
from ..dtypes import dtype_name
from ..layers.module_names import aliases
from ..layers.prefixes import prefix_hint
from .file_tensors import Incoming


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors in the state dict of a module, by name."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def check_plan(model: nn.Module, plan: Plan, given: Incoming, where: str) -> None:
    """Raise if the plan is not for this model: a tensor is missing or has another shape."""
    state = tensors_of(model)
    kind = type(model).__name__
    for change in plan.changed:
        if change.name not in state:
            hint = prefix_hint(given.shapes, state)
            raise RekernelError(
                f"{where}: was made for another architecture: it changes {shown(change.name)}, which this {kind} does "
                f"not have"
                if not hint
                else f"{where}: the names of its tensors are not those of this {kind}: {hint}"
            )
        if tuple(state[change.name].shape) != change.shape:
            raise RekernelError(
                f"{where}: was made for another architecture: {shown(change.name)} had shape {list(change.shape)}, but "
                f"has {list(state[change.name].shape)} in this {kind}"
            )


def check_tensors(model: nn.Module, given: Incoming, where: str) -> None:
    """Raise for anything that would stop the loading halfway: no tensor was loaded yet."""
    state, there = tensors_of(model), given.shapes
    tied = aliases(model)
    missing = [shown(n) for n in sorted(set(state) - set(there)) if there.keys().isdisjoint(tied.get(n, ()))]
    unexpected = [shown(n) for n in sorted(set(there) - set(state))]
    misshapen = [
        f"{given.origin(n)} {list(there[n])} for {list(state[n].shape)}"
        for n in sorted(set(state) & set(there)) if tuple(state[n].shape) != there[n]
    ]  # fmt: skip
    found = [
        f"{what} {few(names)}"
        for what, names in (("misses", missing), ("has unexpected", unexpected), ("has misshapen", misshapen))
        if names
    ]
    if found:
        hint = prefix_hint(there, state) if missing and unexpected else ""
        more = f"; {hint}" if hint else ""
        raise RekernelError(f"{where}: does not fit this {type(model).__name__}: it {'; it '.join(found)}{more}")
    if foreign := given.foreign():
        raise RekernelError(f"{shown(foreign[0])}: torch has no dtype {foreign[1]}")
    # Some scripts cast every tensor of a file, also the integer counters of batch norms, which are buffers.
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    mistaken = [
        f"{given.origin(n)} {dtype_name(given.dtype(n))} for {dtype_name(state[n].dtype)}"
        for n in sorted(set(state) & set(there)) if not _takes(state[n].dtype, given.dtype(n), counter=n in buffers)
    ]  # fmt: skip
    if mistaken:
        raise RekernelError(
            f"{where}: does not fit this {type(model).__name__}: it has numbers of another kind, {few(mistaken)}; "
            f"convert them in the file to the dtype of the model, and integers that stand for a quantised weight to "
            f"their values"
        )
    nowhere = [n for n, b in model.named_buffers() if b.device.type == "meta" and n not in state]
    if nowhere:
        raise RekernelError(
            f"{shown(nowhere[0])}: is a buffer on the meta device, and a checkpoint does not hold it; build the model "
            f"so that only its parameters are on meta"
        )


def _takes(own: torch.dtype, given: torch.dtype, *, counter: bool) -> bool:
    """Whether a tensor takes numbers of another dtype; a counter takes integers that were cast to floats.

    Examples
    --------
    >>> _takes(torch.int64, torch.float16, counter=True), _takes(torch.int8, torch.float16, counter=False)
    (True, False)
    """
    kinds = _kind(own), _kind(given)
    return kinds[0] == kinds[1] or (counter and kinds == ("integer", "floating"))


def _kind(dtype: torch.dtype) -> str:
    """The kind of numbers of a dtype: a cast within one kind only rounds. Booleans count as integers."""
    return "floating" if dtype.is_floating_point else "complex" if dtype.is_complex else "integer"
