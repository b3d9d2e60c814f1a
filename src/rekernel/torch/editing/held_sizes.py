"""Give the modules of a model the new sizes that they hold, and the numbers of new positions.

A configuration may be shared with other models, so the model gets a copy of it.
Scope: attributes. Not here: which sizes change (see `torch.planning.held_sizes`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...plan.changes import LayerChange
from ..layers.module_names import owner_of
from ..layers.settings_objects import CONFIGS, holders_in, is_config
from ..marks import TRAINED
from ..planning.held_sizes import HeldSize
from .edits import Edits

_SAVED = ("config", "_internal_dict")
"""Where transformers and diffusers keep the configuration that `save_pretrained` writes."""


def set_sizes(edits: Edits, sizes: Sequence[HeldSize]) -> None:
    """Set every size, in copies of the configurations.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from torch import nn
    >>> from ..layers.settings_objects import holders_in
    >>> net, config = nn.Identity(), SimpleNamespace(patch_size=8)
    >>> net.config = config
    >>> [_, holder] = holders_in("", net)
    >>> set_sizes(Edits(net), [HeldSize(holder, "patch_size", 8, 16)])
    >>> net.config.patch_size, config.patch_size
    (16, 8)
    """
    for held in sizes:
        if not held.holder.attribute:
            edits.set(held.holder.holds, held.name, held.new)
    within = [held for held in sizes if held.holder.attribute]
    if not within:
        return
    trained = _before(edits.model, within)
    copies: dict[int, Any] = {}  # of all configurations, so that those that are one object stay one
    for module in edits.model.modules():
        for attribute in CONFIGS:
            value = vars(module).get(attribute)
            if is_config(value):
                edits.set(module, attribute, copy.deepcopy(value, copies))
    for held in within:
        _put(copies[id(held.holder.holds)], held.name, held.new)
    if trained:
        edits.set(edits.model, TRAINED, trained)


def set_position_ids(edits: Edits, changes: Sequence[LayerChange]) -> None:
    """Let an embedding of positions that grew be asked for its new positions: CLIP keeps the numbers of all of them.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Module()
    >>> net.positions = nn.Embedding(9, 2)
    >>> net.register_buffer("position_ids", torch.arange(5)[None])
    >>> set_position_ids(Edits(net), [LayerChange("positions.weight", "F32", (5, 2), (9, 2), "values", "")])
    >>> net.position_ids.shape, net.positions.num_embeddings
    (torch.Size([1, 9]), 9)
    """
    for change in changes:
        owner = edits.model.get_submodule(owner_of(change.name)) if change.kind == "values" else None
        if not isinstance(owner, nn.Embedding):
            continue
        edits.set(owner, "num_embeddings", change.new_shape[0])
        around = edits.model.get_submodule(owner_of(owner_of(change.name)))
        for name, ids in list(around._buffers.items()):
            if ids is not None and tuple(ids.shape) in ((change.shape[0],), (1, change.shape[0])):
                numbers = torch.arange(change.shape[0], device=ids.device)
                if ids.device.type == "meta" or torch.equal(ids.flatten(), numbers.to(ids.dtype)):
                    new = torch.arange(change.new_shape[0], device=ids.device, dtype=ids.dtype)
                    edits.set_buffer(around, name, new.expand(*ids.shape[:-1], -1))


def _before(model: nn.Module, sizes: Sequence[HeldSize]) -> dict[str, Any]:
    """The old values of those sizes that are entries of the model's own configuration, laid out as there."""
    own = {id(h.holds): h.inner for h in holders_in("", model) if h.attribute in _SAVED}
    found: dict[str, Any] = {}
    for held in sizes:
        if id(held.holder.holds) in own:
            inner = found
            for name in own[id(held.holder.holds)]:
                inner = inner.setdefault(name, {})
            inner[held.name] = held.old
    return found


def _put(config: Any, name: str, value: Any) -> None:
    """Set an entry, in a configuration that refuses new values, too: this one is a copy that nobody has seen."""
    if isinstance(config, dict):
        dict.__setitem__(config, name, value)
    if not isinstance(config, dict) or name in getattr(config, "__dict__", {}):  # diffusers keeps an entry twice
        object.__setattr__(config, name, value)
