"""Change parts of a pipeline for the length of one call, and put every one of them back.

Scope: attributes of a pipeline object and of its network. Not here: hooks on the network (see `denoiser/hooks`).

Attributes are exchanged in the objects' own dictionaries: assigning a component to a pipeline of diffusers would also
write a new config.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ...plan.config_file import KEY

_MISSING = object()
_PLAIN = (str, int, float, bool, type(None), torch.device, torch.dtype)


@contextmanager
def exchanged(owner: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Give an object other attributes inside the `with` block; afterwards it has the former ones, the same objects."""
    before = {name: vars(owner).get(name, _MISSING) for name in values}
    vars(owner).update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _MISSING:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = value


@contextmanager
def at_sample_size(network: Any, grid: tuple[int, int] | None) -> Iterator[None]:
    """Let the config of a network have another `sample_size`, for pipelines that take no height and width."""
    if grid is None:
        yield
        return
    with exchanged(network, {"_internal_dict": vars(network)["_internal_dict"]}):
        config = network.config
        size = grid[0] if grid[0] == grid[1] else list(grid)
        trained = config.get(KEY) or {"sample_size": config.get("sample_size")}  # `Target.trained` reads it there
        network.register_to_config(sample_size=size, **{KEY: trained})
        yield


def told_once(encode: Callable[..., Any]) -> Callable[..., Any]:
    """A function that remembers its results: the text of a prompt is encoded once for all stages."""
    known: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    @functools.wraps(encode)
    def remembered(*args: Any, **kwargs: Any) -> Any:
        for earlier, options, result in known:
            if _same(earlier, args) and _same(options, kwargs):
                return result
        result = encode(*args, **kwargs)
        known.append((args, kwargs, result))
        return result

    return remembered


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments are certainly equal: the same object, or plain values, however they are nested."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, _PLAIN) and bool(a == b)


@contextmanager
def random_state(generators: Any) -> Iterator[None]:
    """Put the state of all random generators back after the `with` block."""
    listed = generators if isinstance(generators, list | tuple) else [generators]
    states = [(g, g.get_state()) for g in listed if isinstance(g, torch.Generator)]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)
