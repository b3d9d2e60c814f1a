"""Replace parametrised layers by plain ones: a computed weight cannot be rescaled, but its value can.

Scope: the two ways in which torch computes a weight (parametrisations, and the older hooks). Not here: plans (see
`torch.editing.apply`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..layers.dense import plain_layer
from .edits import Edits


def copy_model(model: nn.Module) -> nn.Module:
    """Copy a model deeply, even if old-style weight norm or a cache holds a computed tensor, which torch cannot copy.

    Examples
    --------
    >>> from torch.nn.utils import spectral_norm
    >>> layer = spectral_norm(nn.Conv1d(1, 1, 3))
    >>> _ = layer(torch.zeros(1, 1, 5))
    >>> copy_model(layer).weight.shape
    torch.Size([1, 1, 3])
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            kept = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            for tensor in kept:
                if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                    memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo)


def bake(edits: Edits, only: Collection[str] | None = None) -> list[str]:
    """Replace every convolution and linear layer whose weight is computed, and return a note for each.

    This makes new layers instead of calling `remove_parametrizations`: a copied layer shares its generated class with
    the original model, which that call would break.

    Parameters
    ----------
    only : collection of str, optional
        Names of the layers to replace; by default all.
    """
    notes = []
    for name, module in list(edits.model.named_modules()):
        if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or (only is not None and name not in only):
            continue
        kinds = _computed(module)
        if kinds:
            with torch.no_grad():
                edits.replace(module, plain_layer(module))
            notes.append(f"{name}: its parametrisation ({kinds}) was baked into the weight")
    return notes


def _computed(module: nn.Module) -> str:
    """The names of what computes the weight of a layer. Older hooks are run once, so that the weight is up to date."""
    if parametrize.is_parametrized(module, "weight"):
        lists: Any = module.parametrizations
        return ", ".join(type(p).__name__.strip("_") for p in lists.weight)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            module.weight = hook.compute_weight(module)
            return "weight_norm"
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            module.weight = hook.compute_weight(module, do_power_iteration=False)
            return "spectral_norm"
    return ""
