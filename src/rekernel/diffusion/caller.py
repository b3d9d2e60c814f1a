"""Tell the calls of one cascade from those of everybody else who uses the same network.

Scope: one context variable. A cascade sets it, and hooks that were made meanwhile act in its calls alone. Not here: the
hooks (see `denoiser/hooks`). A thread starts without the variable, so the calls of another thread are those of somebody
else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_CALLER: ContextVar[object | None] = ContextVar("rekernel_caller", default=None)


def current_caller() -> object | None:
    """Who calls: the cascade that runs in this thread or task, or None."""
    return _CALLER.get()


@contextmanager
def calling(caller: object | None) -> Iterator[None]:
    """Mark the calls inside the `with` block as those of `caller`."""
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)
