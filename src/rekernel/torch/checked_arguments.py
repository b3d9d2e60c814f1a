"""Refuse arguments that are neither modules nor tensors, and say what to pass instead.

Scope: the kind of a value. Not here: what a model or an image must have (see the callers).
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from ..errors import RekernelError
from ..messages.arguments import kind_of


def check_module(value: Any, name: str = "model") -> None:
    """Raise unless a value is a module of torch.

    Examples
    --------
    >>> check_module("resnet.safetensors")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: model is a str, not a torch.nn.Module; build the network and load its weights first
    """
    if isinstance(value, nn.Module):
        return
    advice = "pass the network itself"
    if isinstance(value, str | bytes | os.PathLike):
        advice = "build the network and load its weights first"
    elif isinstance(value, type) and issubclass(value, nn.Module):
        advice = f"pass an instance: {value.__name__}(...)"
    elif isinstance(value, dict):
        advice = "build the network and load this state dict into it first"
    raise RekernelError(f"{name} is {kind_of(value)}, not a torch.nn.Module; {advice}")


def check_tensor(value: Any, name: str = "x") -> None:
    """Raise unless a value is a tensor of torch.

    Examples
    --------
    >>> check_tensor([1.0])
    Traceback (most recent call last):
    rekernel.errors.RekernelError: x is a list, not a torch.Tensor; pass torch.as_tensor(x)
    """
    if not isinstance(value, Tensor):
        advice = "pass inputs of the model" if isinstance(value, nn.Module) else f"pass torch.as_tensor({name})"
        raise RekernelError(f"{name} is {kind_of(value)}, not a torch.Tensor; {advice}")
