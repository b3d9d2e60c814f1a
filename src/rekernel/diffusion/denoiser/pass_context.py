"""Which pass of a guided step is running, so that rescaled kernels know the size they are called at.

Knows one context variable; who sets it (guidance, planning) and who reads it (the hooks) do not know each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class PassContext:
    """One call of the denoiser within a guided step.

    reduced : by what the grid is reduced, per axis; empty for not at all
    bypass : whether hooks call the original forward (for a planning pass, and for a call with its kernels lent already)
    """

    reduced: tuple[float, ...] = ()
    bypass: bool = False


_ORDINARY = PassContext()
_PASS: ContextVar[PassContext] = ContextVar("rekernel_pass", default=_ORDINARY)


def current_pass() -> PassContext:
    """The pass that is running; an ordinary one outside guidance."""
    return _PASS.get()


@contextmanager
def running(reduced: tuple[float, ...] = (), *, bypass: bool = False) -> Iterator[None]:
    """Say what the calls inside are."""
    token = _PASS.set(PassContext(reduced, bypass))
    try:
        yield
    finally:
        _PASS.reset(token)
