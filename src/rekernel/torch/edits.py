"""Changes to a module that can be taken back: a step that fails leaves the model as it was.

Knows modules and attributes; not why they change.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from torch import nn


class Edits:
    """A list of changes to one model, undone in reverse where the `with` block raises.

    Parameters
    ----------
    model : nn.Module
        Its attribute `model` is another one afterwards where the root itself was replaced (a single layer).

    Examples
    --------
    >>> net = nn.Sequential(nn.ReLU())
    >>> try:
    ...     with Edits(net) as edits:
    ...         edits.replace(net[0], nn.Tanh())
    ...         raise KeyError
    ... except KeyError:
    ...     print(net[0])
    ReLU()
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._undo: list[Callable[[], None]] = []

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        """Put `new` wherever `old` is registered: a shared module has several places."""
        new.train(old.training)
        if old is self.model:
            self.model = new
            return
        for module in list(self.model.modules()):
            for name, child in list(module._modules.items()):
                if child is old:
                    module._modules[name] = new
                    self._undo.append(lambda owner=module, name=name: owner._modules.__setitem__(name, old))  # type: ignore[misc]

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        had, before = name in vars(owner), vars(owner).get(name)
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, before) if had else delattr(owner, name))

    def set_parameter(self, owner: nn.Module, name: str, new: nn.Parameter) -> None:
        """Put `new` wherever the parameter `name` of `owner` is registered: tied ones stay tied."""
        old = owner._parameters[name]
        for module in self.model.modules():
            for other, parameter in list(module._parameters.items()):
                if parameter is old:
                    module._parameters[other] = new
                    self._undo.append(lambda m=module, other=other: m._parameters.__setitem__(other, old))  # type: ignore[misc]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is not None:
            for undo in reversed(self._undo):
                undo()
