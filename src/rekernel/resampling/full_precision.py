"""Let torch multiply matrices in the dtype of the matrices, whatever its settings around the call are.

Scope: settings of torch that make a product of float32 matrices less precise. Not here: other settings around a call
(see `rekernel.torch.surroundings`). Imports torch where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_FULL = "highest"
_BACKENDS = ("cuda", "mkldnn")


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Turn off autocast on a type of device, and TensorFloat-32 and bfloat16 inside products of float32 matrices.

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(2, 2)
    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     outside = x @ x
    ...     with full_precision("cpu"):
    ...         inside = x @ x
    >>> outside.dtype, inside.dtype
    (torch.bfloat16, torch.float32)
    """
    import torch

    with ExitStack() as stack:
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
        try:
            before = torch.get_float32_matmul_precision()
        except RuntimeError:  # the settings were made by backend, which torch does not let one mix with this one
            for backend in filter(None, (getattr(torch.backends, name, None) for name in _BACKENDS)):
                _by_backend(backend.matmul, stack)
        else:
            if before != _FULL:
                torch.set_float32_matmul_precision(_FULL)
                stack.callback(torch.set_float32_matmul_precision, before)
        yield


def _by_backend(settings: Any, stack: ExitStack) -> None:
    before = getattr(settings, "fp32_precision", "none")
    if before not in ("none", "ieee"):
        settings.fp32_precision = "ieee"
        stack.callback(setattr, settings, "fp32_precision", before)
