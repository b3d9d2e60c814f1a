"""Make tensors and run networks in the same way, whatever settings of torch are around a call.

Scope: autocast, inference mode, grad mode, the default device, and precision. Not here: how torch is told the precision
(see `resampling.full_precision`), and the training flags of a model (see `torch.tracing.eval_mode`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from ..resampling.full_precision import full_precision

_DEVICES = ("cpu", "cuda", "xpu", "mps", "mtia", "hpu")
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@contextmanager
def own_tensors() -> Iterator[None]:
    """Make tensors that a model may keep: they can be trained later, and have values.

    Inference mode and the recording of gradients are off, and so is a default device 'meta'. Autocast stays as it is:
    some models run only with it.

    Examples
    --------
    >>> with torch.inference_mode(), torch.device("meta"), own_tensors():
    ...     x = torch.ones(2)
    >>> x.is_inference(), x.device.type
    (False, 'cpu')
    """
    with torch.inference_mode(False), torch.no_grad(), _real_device():
        yield


@contextmanager
def own_precision() -> Iterator[None]:
    """Run a network in the dtypes of its own tensors: autocast is off, and so is a default device 'meta'.

    Products of float32 matrices, and convolutions, keep float32's precision: on processors that multiply in bfloat16,
    `torch.set_float32_matmul_precision("medium")` would make an exact layer look wrong.

    Examples
    --------
    >>> x = torch.ones(2, 2)
    >>> with torch.autocast("cpu"), own_precision():
    ...     y = x @ x
    >>> y.dtype
    torch.float32
    """
    with ExitStack() as stack:
        stack.enter_context(full_precision("cpu"))
        for device in _DEVICES:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_real_device())
        yield


@contextmanager
def _real_device() -> Iterator[None]:
    if torch.get_default_device().type != "meta":
        yield
        return
    with torch.device("cpu"):
        yield


def in_format_of(old: Tensor, new: Tensor) -> Tensor:
    """The new tensor, with its channels last in memory if those of the old one are.

    Examples
    --------
    >>> old = torch.zeros(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    >>> in_format_of(old, torch.zeros(4, 3, 5, 5)).stride()
    (75, 1, 15, 3)
    """
    layout = _FORMATS.get(old.ndim)
    if layout is None or new.ndim != old.ndim or old.is_contiguous() or not old.is_contiguous(memory_format=layout):
        return new
    return new.contiguous(memory_format=layout)
