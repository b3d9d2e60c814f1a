"""Keep track of which pass of a guided step is running, so that kernels and positions know the size of the call.

Scope: one context variable. Guidance and planning set it, the hooks read it. Not here: the hooks (see `guidance/hook`,
`kernels/hook` and `positions/hook`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class PassContext:
    """One call of the denoiser within a guided step.

    reduced : factor by which the grid is reduced, per axis; empty where the grid is not reduced
    bypass : whether hooks call the original forward: in a planning pass, and in a call with rescaled layers
    """

    reduced: tuple[float, ...] = ()
    bypass: bool = False


_ORDINARY = PassContext()
_PASS: ContextVar[PassContext] = ContextVar("rekernel_pass", default=_ORDINARY)


def current_pass() -> PassContext:
    """The pass that is running; outside guidance, a pass that is neither reduced nor bypassed."""
    return _PASS.get()


@contextmanager
def running(reduced: tuple[float, ...] = (), *, bypass: bool = False) -> Iterator[None]:
    """Mark the calls inside the `with` block as such a pass."""
    token = _PASS.set(PassContext(reduced, bypass))
    try:
        yield
    finally:
        _PASS.reset(token)
