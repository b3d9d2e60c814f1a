"""Find where modules hold sizes: in attributes of their own, and in the configuration object that they keep.

Scope: reading attributes. Not here: which sizes change (see `torch.planning.held_sizes`), and changing them (see
`torch.editing.held_sizes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

CONFIGS = ("config", "cfg", "conf", "args", "hparams", "opt", "_internal_dict")
"""Attributes in which modules keep a configuration: transformers, hand-written models, diffusers."""


@dataclass(frozen=True)
class Holder:
    """A module, or a configuration that a module keeps.

    path : path of the module
    attribute : attribute of the module that keeps the configuration; empty for the module itself
    inner : for a configuration within that one, the attributes that lead to it
    holds : the module or configuration itself
    """

    path: str
    attribute: str
    inner: tuple[str, ...]
    holds: Any

    @property
    def entries(self) -> dict[str, Any]:
        """The attributes by name."""
        return entries_of(self.holds)

    def __str__(self) -> str:
        """The holder as code names it."""
        return ".".join(part for part in (self.path, self.attribute, *self.inner) if part) or "the model itself"


def holders_in(path: str, module: nn.Module) -> Iterator[Holder]:
    """The module, and each configuration that it keeps.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> net = nn.Identity()
    >>> net.config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=16))
    >>> [str(holder) for holder in holders_in("net", net)]
    ['net', 'net.config', 'net.config.vision_config']
    """
    yield Holder(path, "", (), module)
    for attribute in CONFIGS:
        value = vars(module).get(attribute)
        if is_config(value):
            yield from _within(Holder(path, attribute, (), value))


def _within(holder: Holder) -> Iterator[Holder]:
    yield holder
    for name, value in holder.entries.items():
        if name.endswith("config") and is_config(value) and len(holder.inner) < 3:
            yield from _within(Holder(holder.path, holder.attribute, (*holder.inner, name), value))


def is_config(value: Any) -> bool:
    """Whether a value is an object or a dict with entries by name.

    Examples
    --------
    >>> is_config({"patch_size": 16}), is_config(16), is_config(nn.Identity())
    (True, False, False)
    """
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value)
    return hasattr(value, "__dict__") and not isinstance(value, nn.Module | Tensor | type) and not callable(value)


def entries_of(value: Any) -> dict[str, Any]:
    """The entries of a configuration, or the attributes of a module, by name."""
    return dict(value) if isinstance(value, dict) else dict(vars(value))
