"""Passes that leave no trace in a model, and passes that compute nothing: fake tensors have shapes alone.

Knows torch's fake tensors and the attributes of modules; nothing of grids, calls or plans.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

_WORTH = 2**30
"""Multiply-adds from which a pass without computing is the quicker one: it costs about 0.2 ms a call of torch."""

_LOG = logging.getLogger("torch._subclasses.fake_tensor")
_KEPT = (dict, OrderedDict, list, set)


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor has no values."""
    return isinstance(tensor, FakeTensor)


def on_meta(model: nn.Module) -> bool:
    """Whether some of a model's tensors have no values."""
    return any(t.device.type == "meta" for t in chain(model.parameters(), model.buffers()))


def worth_it(model: nn.Module, size: Sequence[int]) -> bool:
    """Whether a pass that computes would take noticeable time on `size` pixels.

    Examples
    --------
    >>> worth_it(nn.Conv2d(8, 8, 3), (32, 32))
    False
    """
    # Each weight works at most once for every pixel.
    return sum(p.numel() for p in model.parameters()) * math.prod(size) > _WORTH


def computing() -> AbstractContextManager[Any]:
    """Real tensors for a while, within a pass of fake ones."""
    return unset_fake_temporarily()


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """The attributes of each module come back: forward methods set caches, sizes, windows.

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
def pretending(model: nn.Module, tensors: Sequence[Tensor]) -> Iterator[Callable[[Any], Any]]:
    """A pass without computing, of a model on the meta device too; to be used within `unchanged`.

    Yields
    ------
    fake : function
        A tensor without values in the place of a real one, anything else as it is. Those of the meta device lie where
        the first real tensor does.
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
    said, _LOG.disabled = _LOG.disabled, True  # what a pass that fails writes there is for torch's developers
    caches = [(cache, cache.cache_info().misses) for cache in _caches(model)]
    try:
        with mode:
            yield fake
    finally:
        _LOG.disabled = said
        for cache, misses in caches:
            if cache.cache_info().misses != misses:  # it may hold tensors without values now
                cache.cache_clear()


def _caches(model: nn.Module) -> list[Any]:
    """The `functools.lru_cache`s that a model's code sees: its attributes, its classes' and its files'."""
    places: list[Any] = []
    for module in model.modules():
        places.append(vars(module))
        for kind in type(module).__mro__:
            places += [vars(kind), vars(sys.modules.get(kind.__module__, object))]
    found = {id(place): place for place in places}
    values = [getattr(v, "__func__", v) for place in found.values() for v in list(place.values()) if _plain(v)]
    return list({id(v): v for v in values if hasattr(type(v), "cache_clear")}.values())


def _plain(value: Any) -> bool:
    """Whether asking for an attribute is safe: modules load things when asked."""
    return hasattr(type(value), "cache_clear") or isinstance(value, staticmethod | classmethod)
