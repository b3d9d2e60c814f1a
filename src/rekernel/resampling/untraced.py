"""Keep a function out of what torch.compile records: one that computes matrices by NumPy.

Scope: one decorator. Not here: which tensors NumPy may read (see `torch_memory`). torch is never loaded for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def untraced(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, which torch.compile calls as it is: the compiled code before it and behind it are two graphs.

    torch would turn NumPy's functions into its own, which differ in masks and in the last bits. Gradients flow.

    Examples
    --------
    >>> untraced(max)(1, 2)
    2
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        torch = sys.modules.get("torch")
        if torch is None or not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        outside: Callable[_P, _R] = torch.compiler.disable(function)
        return outside(*args, **kwargs)

    return call
