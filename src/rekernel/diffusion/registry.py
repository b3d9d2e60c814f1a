"""Putting a hook on a diffusers network and taking it off without a trace.

Knows diffusers' `HookRegistry`; not what a hook does. After `take_off`, `vars(module)` is what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

from ..errors import RekernelError

GUIDANCE, KERNELS = "rekernel.guidance", "rekernel.kernels"
_REGISTRY = "_diffusers_hook"


class ForwardHook(ModelHook):
    """A hook whose `run(forward, module, args, kwargs)` stands in the place of the network's forward."""

    def __init__(self, run: Callable[..., Any], described: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run, self._described = run, described

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Called by the registry."""
        return self._run(self.fn_ref.original_forward, module, args, kwargs)

    def __repr__(self) -> str:
        return self._described()


def put_on(module: nn.Module, name: str, hook: ForwardHook) -> None:
    """Register a hook; guidance stays outermost, since kernels are switched inside each of its passes.

    Raises
    ------
    RekernelError
        Where one of the name is there already, or a cache that keeps features from step to step is: two passes of
        different sizes would share them.
    """
    refuse_caches(module)
    registry: Any = HookRegistry.check_if_exists_or_initialize(module)
    if registry.get_hook(name) is not None:
        raise RekernelError(
            f"{type(module).__name__} has {registry.get_hook(name)!r} attached already; remove() that one first"
        )
    above = registry.get_hook(GUIDANCE) if name == KERNELS else None
    if above is not None:
        take_off(module, GUIDANCE)
        registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(hook, name)
    if above is not None:
        registry.register_hook(above, GUIDANCE)


def take_off(module: nn.Module, name: str) -> None:
    """Remove a hook, and what the registry leaves behind where no other hook is left."""
    registry: Any = getattr(module, _REGISTRY, None)
    if registry is None or registry.get_hook(name) is None:
        return
    registry.remove_hook(name, recurse=False)
    forward = vars(module).get("forward")
    if isinstance(forward, MethodType) and forward == type(module).forward.__get__(module):
        del module.forward  # the class's own method, which the registry put into the instance
    if not registry.hooks:
        delattr(module, _REGISTRY)


def refuse_caches(module: nn.Module) -> None:
    """Raise where features are kept from one step to the next."""
    for part in module.modules():
        registry = vars(part).get(_REGISTRY)
        for name, hook in getattr(registry, "hooks", {}).items():
            if getattr(hook, "_is_stateful", False):
                raise RekernelError(
                    f"{type(module).__name__} keeps features between steps ({name}), which two passes of different "
                    f"sizes would share; call disable_cache() on it first"
                )
