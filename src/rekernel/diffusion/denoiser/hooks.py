"""Put a hook on a diffusers network and take it off without a trace.

Scope: diffusers' `HookRegistry`, accelerate's hooks and `torch.compile`. Not here: the work of a hook (see
`guidance/hook`, `kernels/hook`, `positions/hook`). After `take_off`, `vars(module)` equals its state before `put_on`.

The calls of a network with hooks take turns, also with putting on and taking off: several threads may share it. The
hooks of a cascade act in its own calls alone.

A hook runs outside the compiled code, since it calls the network at several sizes. It runs inside accelerate's
offloading, which takes its own hooks off and puts them on again after every call of a pipeline. `module.compile()`
would compile a hook that is in `forward`, and overwrite a hook that is in the compiled call. So while hooks are on a
network, its `compile` takes them off, compiles, and puts them on again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

from ...errors import RekernelError
from ..caller import current_caller
from .turns import turn_of

GUIDANCE, KERNELS, POSITIONS = "rekernel.guidance", "rekernel.kernels", "rekernel.positions"
PASSES = "rekernel.passes"
_ORDER = PASSES, KERNELS, POSITIONS, GUIDANCE  # from the network outwards
_REGISTRY, _COMPILED_REGISTRY = "_diffusers_hook", "_rekernel_hook"


class ForwardHook(ModelHook):
    """A hook whose `run(forward, args, kwargs)` replaces the network's forward.

    place : the object whose attribute `forward` the hook replaces: the network, or its compiled call
    callable : the callable that the hook put there
    bare : whether `place` had no `forward` of its own before, only the method of its class
    caller : the cascade whose calls the hook is for; None for a hook that acts in every call
    owner : what was attached with this hook, and can be removed; None for a hook that its maker takes off
    """

    def __init__(self, run: Callable[..., Any], described: Callable[[], str], owner: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run, self._described, self.owner = run, described, owner
        self.place: Any = None
        self.callable: Any = None
        self.bare = False
        self.caller = current_caller()

    def new_forward(self, place: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the hook; the registry calls this method."""
        return self._eager(args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _eager(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if getattr(self.place, "_compiled_call_impl", None) is not None:
            raise compiled_later(self.place)
        with turn_of(self.place._module if isinstance(self.place, _CompiledCall) else self.place):
            forward: Any = self.fn_ref.original_forward
            if self.caller not in (None, current_caller()):
                return forward(*args, **kwargs)
            return self.run(forward, args, kwargs)

    def __reduce_ex__(self, protocol: object) -> Any:
        """Refuse to be copied or pickled with the network: the copy would run the layers of the original."""
        raise RekernelError(
            f"{self!r} cannot be copied or pickled with its network; remove() it, copy the network, and attach another "
            f"one to the copy (weights alone: network.state_dict())"
        )

    def __repr__(self) -> str:
        return self._described()


class _OwnRegistry(HookRegistry):
    """A registry that rekernel created; it is deleted when it is empty."""


class _CompiledCall:
    """Give access to the compiled call of a module that was compiled in place, through an attribute `forward`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @property
    def forward(self) -> Any:
        return self._module._compiled_call_impl

    @forward.setter
    def forward(self, call: Any) -> None:
        self._module._compiled_call_impl = call


def compiled_later(module: Any) -> RekernelError:
    """The error for a network compiled with a hook on it: it would compile the hook, or run the network uncompiled."""
    network = getattr(module, "_orig_mod", module)
    return RekernelError(
        f"{type(network).__name__} was compiled after something was attached to it; remove() them and "
        f"attach them to the compiled network"
    )


def put_on(module: nn.Module, name: str, hook: ForwardHook) -> None:
    """Register a hook inside those that come later in `_ORDER`.

    Guidance stays outermost, since the others act inside each of its passes, and every pass is counted inside all.

    Raises
    ------
    RekernelError
        Where the network has a hook of that name already, where it has a cache that keeps features from step to step
        (two passes of different sizes would share them), and where it was compiled with a hook of ours on it.
    """
    with turn_of(module):
        _put_on(module, name, hook)


def _put_on(module: nn.Module, name: str, hook: ForwardHook) -> None:
    refuse_caches(module)
    attached = hook_on(module, name)
    if attached is not None:
        raise RekernelError(
            f"{type(module).__name__} has {attached!r} attached already; take it off first: its remove(), or "
            f"rekernel.diffusion.detach(pipe)"
        )
    inside = getattr(module, "_orig_mod", None)
    earlier = [hook_on(m, n) for m in (module, inside) if m is not None for n in _ORDER]
    place = module if getattr(module, "_compiled_call_impl", None) is None else None
    if any(h is not None and (h.place is inside or (h.place is module) != (place is module)) for h in earlier):
        raise compiled_later(inside or module)
    later = _ORDER[_ORDER.index(name) + 1 :]
    above = [(n, found) for n in later if (found := hook_on(module, n)) is not None]
    for other, _ in reversed(above):
        _unlink(module, other)
    _register(module, name, hook)
    for other, found in above:
        _register(module, other, found)


def hook_on(module: nn.Module, name: str) -> ForwardHook | None:
    """The hook of that name on the network, or None."""
    registries = (vars(module).get(key) for key in (_REGISTRY, _COMPILED_REGISTRY))
    return next((r.hooks[name] for r in registries if r is not None and name in r.hooks), None)


def take_off(module: nn.Module, name: str) -> None:
    """Remove a hook; where no other hook is left, also remove the registry that rekernel created."""
    with turn_of(module):
        hook = _unlink(module, name)
        if hook is not None:
            hook.run = _call_original  # the wrapper of another library, or a call that begins, may still hold the hook


def _call_original(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return forward(*args, **kwargs)


def _unlink(module: nn.Module, name: str) -> ForwardHook | None:
    """Take a hook out of the chain of hooks and connect its neighbours.

    Not done by diffusers' own removal: it loses the work of the hook above, and does not handle accelerate's hooks.
    """
    hook = hook_on(module, name)
    if hook is None:
        return None
    key = _REGISTRY if name in getattr(vars(module).get(_REGISTRY), "hooks", ()) else _COMPILED_REGISTRY
    registry, place, below = vars(module)[key], hook.place, hook.fn_ref.original_forward
    index = registry._hook_order.index(name)
    above = registry._fn_refs[index + 1] if index + 1 < len(registry._fn_refs) else None
    if above is not None:
        known = registry.hooks[registry._hook_order[index + 1]]
        if isinstance(known, ForwardHook):
            known.bare = hook.bare
        setattr(above, "forward" if above.original_forward is None else "original_forward", below)
    elif place.forward is hook.callable:
        place.forward = below
        if hook.bare:
            del place.forward
    elif getattr(place, "_old_forward", None) is hook.callable:
        place._old_forward = below
    del registry.hooks[name]
    registry._hook_order.pop(index)
    registry._fn_refs.pop(index)
    if not registry.hooks and isinstance(registry, _OwnRegistry):
        del vars(module)[key]
    if all(hook_on(module, n) is None for n in _ORDER) and _is_ours(vars(module).get("compile")):
        del vars(module)["compile"]
    return hook


def _register(module: nn.Module, name: str, hook: ForwardHook) -> None:
    compiled = getattr(module, "_compiled_call_impl", None) is not None and not hasattr(module, "_orig_mod")
    place: Any = _CompiledCall(module) if compiled else module
    registry: Any = vars(module).setdefault(_COMPILED_REGISTRY if compiled else _REGISTRY, _OwnRegistry(place))
    with _inside_offloading(place):
        hook.place, hook.bare = place, not compiled and "forward" not in vars(place)
        registry.register_hook(hook, name)
        hook.callable = place.forward
    vars(module).setdefault("compile", functools.partial(_compile_beneath, module))


def _compile_beneath(module: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Replace `module.compile` while hooks are on the module: compile the network without its hooks."""
    hooks = [(name, hook) for name in _ORDER if (hook := _unlink(module, name)) is not None]
    try:
        type(module).compile(module, *args, **kwargs)
    finally:
        for name, hook in hooks:
            _register(module, name, hook)


def _is_ours(compile_: Any) -> bool:
    return isinstance(compile_, functools.partial) and compile_.func is _compile_beneath


@contextmanager
def _inside_offloading(place: Any) -> Iterator[None]:
    """Where `place.forward` is accelerate's hook, let it be the callable inside that hook for as long as this runs."""
    outer = vars(place).get("forward")
    ours = isinstance(outer, functools.partial) and outer.args[:1] == (place,)
    if not ours or getattr(outer.func, "__module__", "") != "accelerate.hooks":
        yield
        return
    place.forward = place._old_forward
    try:
        yield
    finally:
        place._old_forward = place.forward
        place.forward = outer


def refuse_caches(module: nn.Module) -> None:
    """Raise where the network keeps features from one step to the next."""
    for part in module.modules():
        registry = vars(part).get(_REGISTRY)
        for name, hook in getattr(registry, "hooks", {}).items():
            if getattr(hook, "_is_stateful", False):
                raise RekernelError(
                    f"{type(module).__name__} keeps features between steps ({name}), which two passes of different "
                    f"sizes would share; call disable_cache() on it first"
                )


__all__ = [
    "GUIDANCE", "KERNELS", "PASSES", "POSITIONS",
    "ForwardHook", "compiled_later", "hook_on", "put_on", "refuse_caches", "take_off",
]  # fmt: skip
