"""Replace parametrised layers by plain ones: a computed weight cannot be rescaled, but its value can.

Scope: the two ways in which torch computes a weight (parametrisations, and the older hooks). Not here: plans (see
`torch.editing.apply`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..layers.dense import plain_layer
from ..layers.own_forward import has_own_forward
from ..layers.same_class import same_class
from ..surroundings import own_precision, own_tensors
from ..tracing.eval_mode import evaluating
from .edits import Edits

_PARTS = ("_g", "_v", "_orig", "_u")
"""Endings of the tensors from which older hooks compute the weight; they are gone when it is baked."""


def copy_model(model: nn.Module) -> nn.Module:
    """Copy a model deeply, even if old-style weight norm or a cache holds a computed tensor, which torch cannot copy.

    Examples
    --------
    >>> import torch
    >>> from torch.nn.utils import spectral_norm
    >>> layer = spectral_norm(nn.Conv1d(1, 1, 3))
    >>> _ = layer(torch.zeros(1, 1, 5))
    >>> copy_model(layer).weight.shape
    torch.Size([1, 1, 3])
    """
    memo: dict[int, Any] = {}
    with own_tensors():
        for module in model.modules():
            for value in vars(module).values():
                kept = value.values() if isinstance(value, dict) else value
                for tensor in kept if isinstance(value, dict | list | tuple) else [kept]:
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
    with own_tensors(), own_precision():
        return _bake(edits, only)


def _bake(edits: Edits, only: Collection[str] | None) -> list[str]:
    notes = []
    for name, module in list(edits.model.named_modules()):
        if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or (only is not None and name not in only):
            continue
        kinds = _computed(module)
        if kinds:
            with evaluating(module):  # in train mode, spectral norm goes a step further each time it is asked
                plain = _baked(module)
            edits.replace(module, plain)
            notes.append(f"{name}: its parametrisation ({kinds}) was baked into the weight")
    return notes


def _baked(module: Any) -> nn.Module:
    """The layer with the weight and bias that it computes now. A forward method of its own stays."""
    kind: Any = parametrize.type_before_parametrizations(module)
    if not has_own_forward(module):
        return plain_layer(module)
    plain: Any = plain_layer(module)
    kept: nn.Module = same_class(module, plain.weight, kind=kind)
    own = {name: t for name, t in kept._parameters.items() if name not in (f"weight{part}" for part in _PARTS)}
    vars(kept)["_parameters"] = {**own, "weight": plain.weight, "bias": plain.bias}
    vars(kept)["_buffers"] = {n: t for n, t in kept._buffers.items() if n not in (f"weight{p}" for p in _PARTS)}
    vars(kept)["_modules"] = {name: child for name, child in kept._modules.items() if name != "parametrizations"}
    vars(kept).pop("weight", None)  # what an older hook computed
    return kept


def _computed(module: nn.Module) -> str:
    """The names of what computes the weight of a layer. Older hooks are run once, so that the weight is up to date."""
    if parametrize.is_parametrized(module):
        lists: Any = module.parametrizations
        return ", ".join(type(p).__name__.strip("_") for found in lists.values() for p in found)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            module.weight = hook.compute_weight(module)
            return "weight_norm"
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            module.weight = hook.compute_weight(module, do_power_iteration=False)
            return "spectral_norm"
    return ""
