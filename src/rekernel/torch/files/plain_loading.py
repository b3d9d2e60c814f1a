"""Decide whether the class of a model builds the rescaled model from its configuration alone.

Then `from_pretrained` of transformers or diffusers loads it without rekernel.
Scope: one model. The class is asked: it builds a model on the meta device, which is compared module by module.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def loads_plainly(model: nn.Module) -> bool:
    """Whether a new model of the same class and config has the same modules, sizes and shapes.

    False, too, where the class cannot build one on the meta device.
    """
    fresh = _fresh(model)
    if fresh is None:
        return False
    ours, theirs = dict(model.named_modules()), dict(fresh.named_modules())
    if ours.keys() != theirs.keys() or _shapes(model) != _shapes(fresh):
        return False
    return all(_alike(ours[name], theirs[name]) for name in ours)


def _fresh(model: Any) -> nn.Module | None:
    config = getattr(model, "config", None)
    build = getattr(type(model), "from_config", type(model))  # diffusers, transformers
    if config is None:
        return None
    try:
        with torch.device("meta"):
            made = build(copy.deepcopy(config))
    except Exception:  # another library's code, which may need values, or arguments beside the config
        return None
    return made if type(made) is type(model) else None


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if hasattr(value, "shape")}


def _alike(one: nn.Module, other: nn.Module) -> bool:
    hooks = any(len(vars(one)[name]) != len(vars(other)[name]) for name in _HOOKS)
    return type(one) is type(other) and not hooks and one.extra_repr() == other.extra_repr() and _sizes(one, other)


def _sizes(one: nn.Module, other: nn.Module) -> bool:
    """Whether the numbers that both modules hold are the same."""
    mine, its = vars(one), vars(other)
    names = [name for name in mine if name in its and not name.startswith("_")]
    return all(_numbers(mine[name]) == _numbers(its[name]) for name in names)


def _numbers(value: Any) -> tuple[float, ...] | None:
    """The numbers in a number, tuple or list; None for any other value, and for a switch that users set."""
    parts = tuple(value) if isinstance(value, tuple | list) else (value,)
    return parts if all(type(part) in (int, float) for part in parts) else None
