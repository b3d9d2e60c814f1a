"""Refuse tensors of torch that are not plain blocks of numbers, and say how to make them plain.

Scope: layouts and kinds of tensors. Not here: dtypes (see `products`), objects that are not arrays (see
`messages.arguments`). torch is never loaded for it: who has a tensor has loaded torch.
"""

from __future__ import annotations

import sys
from typing import Any

from ..errors import RekernelError
from ..messages.arguments import check_array


def check_weight(w: Any, name: str = "w") -> None:
    """Raise unless a value is an array of some framework whose numbers lie in a dense block, in this process.

    Examples
    --------
    >>> import torch
    >>> check_weight(torch.eye(2))
    >>> check_weight(torch.eye(2).to_sparse())
    Traceback (most recent call last):
    rekernel.errors.RekernelError: w is a tensor of layout torch.sparse_coo, whose numbers do not lie in a block; pass \
w.to_dense()
    """
    if found := _peculiar(w, name):
        what, instead = found
        raise RekernelError(f"{name} is {what}; {instead}")
    check_array(w, name)


def _peculiar(w: Any, name: str) -> tuple[str, str] | None:
    """What a tensor is, and what to do instead; None for a plain one, a meta tensor included."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(w, torch.Tensor):
        return None
    if w.is_nested:
        return "a nested tensor, of several shapes", f"pass its tensors one by one: {name}.unbind()"
    if w.layout != torch.strided:
        return f"a tensor of layout {w.layout}, whose numbers do not lie in a block", f"pass {name}.to_dense()"
    if w.is_quantized:
        return f"a quantised tensor of {w.dtype}", f"pass {name}.dequantize()"
    if hasattr(w, "full_tensor"):
        return (
            "a DTensor, shared out among processes",
            f"pass {name}.full_tensor(), and share the result out again: "
            f"torch.distributed.tensor.distribute_tensor(result, {name}.device_mesh, {name}.placements)",
        )
    if hasattr(w, "fake_mode") and not torch._C._len_torch_dispatch_stack():
        return "a fake tensor outside of its mode", f"call within it: `with {name}.fake_mode:`"
    if hasattr(w, "get_mask"):
        return "a masked tensor", f"pass {name}.to_tensor(0)"
    return None
