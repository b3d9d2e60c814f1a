"""Let NumPy compute on the memory of a torch tensor where nothing but its values counts.

NumPy's products of thin matrices, block by block in the cache and on all cores, are several times as fast as torch's
(benchmarks/speed/resample.py).
Scope: which tensors NumPy may read. Not here: the arithmetic (see `products`). Imports torch where it is used.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

_SHARED = ("float16", "float32", "float64")  # NumPy has no bfloat16


def memory_of(w: Any, dtype: str) -> NDArray[Any] | None:
    """The values of a tensor as an array that shares its memory; None where torch has to compute.

    torch computes on another device, in bfloat16, where a gradient is asked for, in a transformation of torch.func,
    in `torch.compile`, and on a subclass of tensors, such as a fake one.

    Examples
    --------
    >>> import torch
    >>> memory_of(torch.ones(2), "float32"), memory_of(torch.ones(2).bfloat16(), "bfloat16") is None
    (array([1., 1.], dtype=float32), True)
    >>> memory_of(torch.ones(2, requires_grad=True), "float32") is None
    True
    """
    import torch

    if dtype not in _SHARED or type(w) not in (torch.Tensor, torch.nn.Parameter) or w.device.type != "cpu":
        return None
    if w.layout != torch.strided or (w.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return None
    if torch.autograd.forward_ad._current_level >= 0:
        return None
    values: NDArray[Any] = w.numpy(force=True)
    return values
