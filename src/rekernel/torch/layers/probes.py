"""Copy a layer for probes: on the CPU, with random numbers, so that its forward method can be run without harm.

Scope: copies of one layer, and random tensors. Not here: what a probe shows (see `torch.layers.own_forward`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_MOST_WORK = 2**27
"""Multiply-adds of a probe of the trained size. Above that a smaller probe is run; its size leaves the same rest when
divided by the stride, since code that computes its padding looks at that rest."""


@contextmanager
def probing(layer: nn.Module, *, values: bool = False) -> Iterator[Any]:
    """A copy of a layer on the CPU, in evaluation mode, in a block without gradients, autocast and other settings.

    Parameters
    ----------
    values : bool
        Keep the values of the layer. By default the copy has random ones, since zeros and ones would hide what the
        forward method does with them. Weight and bias are normal; other numbers lie between .5 and 1.5, since a
        variance or a gain may have to be positive.

    Examples
    --------
    >>> with probing(nn.Conv1d(1, 1, 3, device="meta")) as probe:
    ...     probe.weight.device.type, torch.is_grad_enabled()
    ('cpu', False)
    """
    with ExitStack() as stack:
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        memo: dict[int, Any] = {}
        for tensor in (*layer.parameters(), *layer.buffers()):
            normal = tensor is getattr(layer, "weight", None) or tensor is getattr(layer, "bias", None)
            made = _like(tensor, len(memo), keep=values, normal=normal)
            memo[id(tensor)] = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made
        for module in layer.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor):  # torch cannot copy one that has a gradient function
                    memo.setdefault(id(value), value.detach().clone())
                elif "hook" in name and isinstance(value, dict):  # a hook may hold the whole model
                    memo[id(value)] = type(value)()
        yield copy.deepcopy(layer, memo).eval()


def random_like(shape: Sequence[int], dtype: torch.dtype, seed: int, *, normal: bool = True) -> Tensor:
    """A tensor of random numbers on the CPU, the same ones for the same seed.

    Examples
    --------
    >>> bool((random_like((2, 3), torch.float32, 0) == random_like((2, 3), torch.float32, 0)).all())
    True
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    made = torch.empty(tuple(shape), dtype=dtype, device="cpu")
    return made.normal_(generator=generator) if normal else made.uniform_(0.5, 1.5, generator=generator)


def _like(tensor: Tensor, seed: int, *, keep: bool, normal: bool) -> Tensor:
    """The values of a tensor, or random ones, on the CPU; halves become floats, which all functions of torch take."""
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
    meta = tensor.device.type == "meta"
    if tensor.is_floating_point() and (meta or not keep):
        return random_like(tensor.shape, dtype, seed, normal=normal)
    if meta:
        return torch.zeros(tensor.shape, dtype=dtype)
    return tensor.detach().to("cpu", dtype, copy=True)


def probe_size(layer: Any, size: Sequence[int] = ()) -> tuple[int, ...]:
    """The size of a probe for a convolution whose input has `size` pixels; any size will do where none is given.

    Examples
    --------
    >>> probe_size(nn.Conv1d(1, 1, 3, stride=2), (4097,)), probe_size(nn.Conv1d(512, 512, 3, stride=2), (4097,))
    ((4097,), (13,))
    """
    geometry = list(zip(layer.kernel_size, layer.dilation, layer.stride, strict=True))
    if size:
        work = layer.weight.numel()
        for n, (_, _, stride) in zip(size, geometry, strict=True):
            work *= n // stride + 1
        if work <= _MOST_WORK:
            return tuple(size)
    found = []
    for axis, (k, spread, stride) in enumerate(geometry):
        least = 2 * (spread * (k - 1) + 1) + 3 * stride
        rest = size[axis] % stride if size else 0
        n = least + (rest - least) % stride
        found.append(min(n, size[axis]) if size else n)
    return tuple(found)
