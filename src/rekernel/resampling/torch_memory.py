"""Let NumPy compute on the memory of a torch tensor where nothing but its values counts.

NumPy's products of thin matrices, block by block in the cache and on all cores, are several times as fast as torch's
(benchmarks/speed/resample.py).
Scope: which tensors NumPy may read and write. Not here: the arithmetic (see `products`). Imports torch where it is
used.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHARED = ("float16", "bfloat16", "float32", "float64")


def has_plain_memory(w: Any) -> bool:
    """Whether nothing but the values of a tensor counts, on any device.

    More counts where a gradient is asked for, in a transformation of torch.func, in `torch.compile` and
    `torch.jit.trace`, and in a subclass of tensors, such as a fake one.

    Examples
    --------
    >>> import torch
    >>> has_plain_memory(torch.ones(2)), has_plain_memory(torch.ones(2, requires_grad=True))
    (True, False)
    """
    import torch

    if type(w) not in (torch.Tensor, torch.nn.Parameter) or w.layout != torch.strided:
        return False
    if (w.requires_grad and torch.is_grad_enabled()) or _is_recorded():
        return False
    return bool(torch.autograd.forward_ad._current_level < 0)


def _is_recorded() -> bool:
    """Whether torch records or changes the operations that run now: a compiler, a tracer, torch.func, or a mode."""
    import torch

    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    return bool(torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack())


def is_traced(x: Any) -> bool:
    """Whether an array of torch or JAX has no values that Python may look at: they come when a trace of it runs.

    Examples
    --------
    >>> import torch
    >>> is_traced(torch.ones(2)), is_traced(torch.ones(2, device="meta"))
    (False, True)
    """
    framework = type(x).__module__.partition(".")[0]
    if framework == "torch":
        return x.device.type == "meta" or type(x).__name__ == "FakeTensor" or _is_recorded()
    return "jax" in sys.modules and isinstance(x, sys.modules["jax"].core.Tracer)


def memory_of(w: Any, dtype: str) -> NDArray[Any] | None:
    """The values of a tensor as an array that shares its memory; None where torch has to compute.

    torch computes on another device, in dtypes that are no float of 16, 32 or 64 bits, and where more than the values
    counts.

    Examples
    --------
    >>> import torch
    >>> memory_of(torch.ones(2), "float32"), memory_of(torch.ones(2).bfloat16(), "bfloat16")
    (array([1., 1.], dtype=float32), array([1, 1], dtype=bfloat16))
    >>> memory_of(torch.ones(2, requires_grad=True), "float32") is None
    True
    """
    import ml_dtypes
    import torch

    if dtype not in _SHARED or w.device.type != "cpu" or not has_plain_memory(w):
        return None
    if dtype == "bfloat16":  # which NumPy has not
        w = w.detach().view(torch.int16)
    values: NDArray[Any] = w.numpy(force=True)
    return values.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else values


def tensor_on(values: NDArray[Any]) -> Any:
    """A tensor on the memory of an array of floats, bfloat16 of ml_dtypes included.

    Examples
    --------
    >>> import ml_dtypes
    >>> tensor_on(np.ones(2, ml_dtypes.bfloat16))
    tensor([1., 1.], dtype=torch.bfloat16)
    """
    import torch

    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)
