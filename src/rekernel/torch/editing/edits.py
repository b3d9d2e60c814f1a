"""Change a module in steps that can be undone: if one fails, the model is as it was before.

Scope: modules, attributes and hooks. A new module takes over the hooks of the old one, and the attributes that others
have set on it. Not here: what changes (see `torch.editing.apply`).
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...errors import RekernelError
from ...escape import shown

_HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook",
    "_state_dict_pre_hooks", "_state_dict_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
_LOADING = "_load_state_dict_pre_hooks"
_COMPUTE_WEIGHTS = "torch.nn.utils."
with torch.device("meta"):
    _OWN = frozenset[str]().union(
        *(vars(m) for m in (nn.Conv1d(1, 1, 1), nn.Linear(1, 1), nn.MaxPool1d(1), nn.AvgPool1d(1)))
    )
"""Attributes that the layers of torch have themselves. A new layer does not take these over from the old one."""


class Edits:
    """The changes made to one model, which are undone in reverse order if the `with` block raises.

    Parameters
    ----------
    model : nn.Module
        The model to change. If the model is a single layer that is replaced, the attribute `model` is the new one.

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
        _refuse_scripted(model)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if is_lazy(tensor):
                raise RekernelError(
                    f"{shown(name)}: has no shape yet, since its layer is lazy; run the model once first"
                )
        self.model = model
        self._undo: list[Callable[[], None]] = []
        self._places: dict[int, list[tuple[nn.Module, str]]] = {}  # owners and names of each module, by its id
        for module in model.modules():
            self._note_places(module)

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        """Put `new` wherever `old` is registered (a shared module has several places), with the hooks of `old`.

        Raises
        ------
        RekernelError
            If `old` has a `forward` function as an attribute, as accelerate's offloading sets it: that function would
            run the old layer.
        """
        if "forward" in vars(old):
            name = next((name for name, module in self.model.named_modules() if module is old), "")
            raise RekernelError(
                f"{shown(name) if name else type(old).__name__}: its forward was replaced on the layer itself (by "
                f"accelerate's offloading, say), and a rescaled layer cannot take that over; remove it first and add "
                f"it again afterwards"
            )
        bare = {name: vars(new)[name] for name in (*_HOOKS, _LOADING)}
        _take_over(old, new)
        self._undo.append(lambda: vars(new).update(bare))  # a caller that keeps the new layer gets it without hooks
        new.train(old.training)
        places = self._places.pop(id(old), [])
        for module in new.modules():
            self._note_places(module)
        if old is self.model:
            self.model = new
            return
        for owner, name in places:
            owner._modules[name] = new
            self._places.setdefault(id(new), []).append((owner, name))
            self._undo.append(lambda owner=owner, name=name: owner._modules.__setitem__(name, old))  # type: ignore[misc]

    def _note_places(self, owner: nn.Module) -> None:
        for name, child in owner._modules.items():
            if child is not None:
                self._places.setdefault(id(child), []).append((owner, name))

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        had, before = name in vars(owner), vars(owner).get(name)
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, before) if had else delattr(owner, name))

    def set_buffer(self, owner: nn.Module, name: str, new: Tensor) -> None:
        """Replace a buffer by another tensor."""
        old = owner._buffers[name]
        owner._buffers[name] = new
        self._undo.append(lambda: owner._buffers.__setitem__(name, old))

    def hook(self, owner: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False) -> None:
        """Register a forward pre-hook, which changes the input of a module."""
        self._undo.append(owner.register_forward_pre_hook(hook, with_kwargs=with_kwargs).remove)

    def set_parameter(self, owner: nn.Module, name: str, new: nn.Parameter) -> None:
        """Put `new` wherever the parameter `name` of `owner` is registered: tied ones stay tied."""
        old = owner._parameters[name]
        for module in self.model.modules():
            for other, parameter in list(module._parameters.items()):
                if parameter is old:
                    module._parameters[other] = new
                    self._undo.append(lambda m=module, other=other: m._parameters.__setitem__(other, old))  # type: ignore[misc]

    def undo(self) -> None:
        """Undo all changes made so far."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is not None:
            self.undo()


def _refuse_scripted(model: nn.Module) -> None:
    """Raise for TorchScript, whose layers cannot be replaced. A scripted function without parameters may stay."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and (not name or next(module.parameters(), None) is not None):
            raise RekernelError(
                f"{shown(name) if name else type(model).__name__}: is TorchScript, whose layers cannot be seen or "
                f"replaced; pass the module that torch.jit.script or torch.jit.trace was given, and trace the result"
            )


def _take_over(old: nn.Module, new: nn.Module) -> None:
    """Give `new` the hooks of `old` and the attributes that others set on it.

    Hooks stay in their dictionaries, so that their handles still work.
    """
    for name in _HOOKS:
        value = vars(old)[name]
        if isinstance(value, dict) and any(map(_computes_weight, value.values())):  # the weight is baked
            value = type(value)((key, hook) for key, hook in value.items() if not _computes_weight(hook))
        vars(new)[name] = value
    taking: Any = new
    vars(new)[_LOADING] = type(vars(old)[_LOADING])()
    for hook in vars(old)[_LOADING].values():  # each holds a reference to its module
        if not _computes_weight(hook.hook):
            taking._register_load_state_dict_pre_hook(hook.hook, hook.with_module)
    for name, value in vars(old).items():
        if name not in _OWN and not hasattr(new, name):
            vars(new)[name] = value


def _computes_weight(hook: Any) -> bool:
    return type(hook).__module__.startswith(_COMPUTE_WEIGHTS)
