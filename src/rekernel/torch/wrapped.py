"""Look through the wrappers in which several processes train a network, and refuse to rescale what they hold.

Scope: which classes wrap a network, and which tensors are parts of one. Not here: reading and writing parts (see
`torch.files.local_part` and `torch.files.gathered`).
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from ..errors import RekernelError

_INSIDE = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}
"""The attribute of each wrapper of torch that holds the network."""
_FLAT = "FullyShardedDataParallel"


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch's wrappers for several processes and for compilation.

    Raises
    ------
    RekernelError
        For the older `FullyShardedDataParallel`, which joins the parameters to flat ones.

    Examples
    --------
    >>> unwrapped(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    while (inside := _INSIDE.get(_name(model))) is not None:
        model = getattr(model, inside)
    if any(_name(module) == _FLAT for module in model.modules()):
        raise RekernelError(f"this model is wrapped in {_FLAT}, which joins its parameters; shard it by fully_shard")
    return model


def refuse_wrapped(model: nn.Module, doing: str) -> None:
    """Raise if a model is prepared for several processes: the wrapper would go on using the old parameters.

    Parameters
    ----------
    doing : what to do with the network before it is wrapped, for the message

    Examples
    --------
    >>> refuse_wrapped(nn.ReLU(), "rescale")
    """
    names = {_name(module) for module in model.modules()}
    kind = next((name for name in (_FLAT, "DistributedDataParallel", "DataParallel") if name in names), "")
    if kind:
        raise RekernelError(
            f"this model is wrapped in {kind}, which keeps the parameters that it was given; {doing} the network "
            f"first, and wrap the result"
        )
    if any(map(is_sharded, model.parameters())):
        raise RekernelError(
            f"the parameters of this {type(model).__name__} are shared out among processes already; {doing} the "
            f"network first, on the meta device if it is large, and then call fully_shard"
        )


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which each process holds a part.

    Examples
    --------
    >>> import torch
    >>> is_sharded(torch.zeros(2))
    False
    """
    module: Any = sys.modules.get("torch.distributed.tensor")  # if nothing has imported it, there is no DTensor
    return module is not None and isinstance(tensor, module.DTensor)


def _name(module: nn.Module) -> str:
    """The name of a module's class if it is torch's; empty for others."""
    kind = type(module)
    return kind.__name__ if kind.__module__.startswith("torch.") else ""
