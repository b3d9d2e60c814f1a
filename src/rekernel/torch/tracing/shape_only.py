"""Run a model without changing it, and run it with fake tensors, which have a shape but no values.

Scope: torch's fake tensors and the attributes of modules. Not here: grids and calls (see `tracing.recorder`).
"""

from __future__ import annotations

import logging
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

_WORTH = 2**31
"""Number of multiply-adds above which a pass with fake tensors is faster: it costs about 0.8 ms per torch function."""

_LOG = logging.getLogger("torch._subclasses.fake_tensor")
_KEPT = (dict, OrderedDict, list, set)


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor is a fake one, without values."""
    return isinstance(tensor, FakeTensor)


def on_meta(tensors: Iterable[Tensor]) -> bool:
    """Whether some tensors are on the meta device, without values."""
    return any(t.is_meta for t in tensors)


def worth_it(held: Iterable[Tensor], size: Sequence[int]) -> bool:
    """Whether a pass with fake tensors is faster than one that computes, on an image of `size` pixels.

    Parameters
    ----------
    held : iterable of Tensor
        The parameters and buffers of the model.

    Examples
    --------
    >>> worth_it(nn.Conv2d(8, 8, 3).parameters(), (32, 32))
    False
    """
    # An upper bound: each weight is used at most once per pixel.
    return sum(t.numel() for t in held) * math.prod(size) > _WORTH


def computing() -> AbstractContextManager[Any]:
    """Use real tensors within a pass of fake ones."""
    return unset_fake_temporarily()


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of each module afterwards: forward methods set caches, sizes and windows.

    Examples
    --------
    >>> net = nn.Sequential(nn.ReLU())
    >>> with unchanged(net):
    ...     net[0].inplace = net.seen = True
    >>> net[0].inplace, hasattr(net, "seen")
    (False, False)
    """
    modules = [(vars(module), dict(vars(module))) for module in model.modules()]
    kept = [(value, type(value)(value)) for _, before in modules for value in before.values() if type(value) in _KEPT]
    try:
        yield
    finally:
        for attributes, before in modules:
            attributes.clear()
            attributes.update(before)
        for value, before_it in kept:
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(before_it)


@contextmanager
def fake_tensors(model: nn.Module, tensors: Sequence[Tensor]) -> Iterator[Callable[[Any], Any]]:
    """Run a model, which may be on the meta device, with fake tensors. Use this within `unchanged`.

    Yields
    ------
    fake : function
        Replaces a tensor by a fake one, and returns anything else as it is. A tensor of the meta device becomes a fake
        one on the device of the first real tensor.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    everything = chain(tensors, model.parameters(), model.buffers())
    device = next((t.device for t in everything if t.device.type != "meta"), torch.device("cpu"))
    made: dict[int, Tensor] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.device.type != "meta":
            return mode.from_tensor(value)
        if id(value) not in made:
            found: Tensor = FakeTensor(mode, value.detach(), device)
            made[id(value)] = nn.Parameter(found, value.requires_grad) if isinstance(value, nn.Parameter) else found
        return made[id(value)]

    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None and tensor.device.type == "meta":
                    own[name] = fake(tensor)
    disabled, _LOG.disabled = _LOG.disabled, True  # a pass that fails logs details for torch's developers
    caches = [(cache, cache.cache_info().misses) for cache in _caches(model)]
    try:
        with mode:
            yield fake
    finally:
        _LOG.disabled = disabled
        for cache, misses in caches:
            if cache.cache_info().misses != misses:  # the cache may hold fake tensors now
                cache.cache_clear()


def _caches(model: nn.Module) -> list[Any]:
    """The `functools.lru_cache` objects in the modules of a model, in their classes, and in the files of these."""
    places: list[Any] = []
    for module in model.modules():
        places.append(vars(module))
        for kind in type(module).__mro__:
            places += [vars(kind), vars(sys.modules.get(kind.__module__, object))]
    found = {id(place): place for place in places}
    values = [v for place in found.values() for value in list(place.values()) for v in _caching(value)]
    return list({id(v): v for v in values}.values())


def _caching(value: Any) -> Iterator[Any]:
    """The caches in a value: the value itself, or one that a function holds in its closure, as decorators do."""
    value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    if hasattr(type(value), "cache_clear"):
        yield value
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # a name that is not bound yet
                continue
            if hasattr(type(held), "cache_clear"):
                yield held
