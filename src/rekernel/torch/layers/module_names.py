"""Find the module that holds a parameter, and all names of a shared parameter.

Scope: names in a module. Not here: names in a file (see `torch.files.file_tensors`).
"""

from __future__ import annotations

from torch import nn

from ...plan.plan import Plan


def owner_of(name: str) -> str:
    """The path of the module that holds a tensor; empty for the model itself.

    Examples
    --------
    >>> owner_of("layer1.0.conv.weight"), owner_of("weight")
    ('layer1.0.conv', '')
    """
    return name.rpartition(".")[0]


def changed_modules(plan: Plan) -> set[str]:
    """The paths of the modules that a plan changes: those of changed weights, and those without tensors.

    A module that adds a table of positions runs as before, and so does everything in it.

    Examples
    --------
    >>> from ...plan.changes import ModuleChange
    >>> changed_modules(Plan((), modules=(ModuleChange("pool", "max-pool", "", (), ()),)))
    {'pool'}
    """
    layers = (owner_of(change.name) for change in plan.changed if change.kind != "values")
    return {*layers, *(module.name for module in plan.modules)}


def aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For each name in the state dict, all names of the same tensor. Tied weights and shared modules have several.

    Examples
    --------
    >>> layer = nn.Linear(2, 2, bias=False)
    >>> aliases(nn.Sequential(layer, layer))["1.weight"]
    ('0.weight', '1.weight')
    """
    by_tensor: dict[int, list[str]] = {}
    kept = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in kept:
        by_tensor.setdefault(id(tensor), []).append(name)
    return {name: tuple(by_tensor[id(tensor)]) for name, tensor in kept}
