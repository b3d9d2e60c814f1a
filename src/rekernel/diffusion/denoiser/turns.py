"""Let the calls of one network take turns, where hooks change the network for the time of a call, and so cascades.

Scope: two locks for each network. Not here: the hooks (see `hooks`), the changes (see `substitutes`). The locks are
kept beside the networks and not on them, so that nothing of them is left behind, copied or pickled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_CASCADES: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_MAKING = threading.Lock()


@contextmanager
def turn_of(network: Any) -> Iterator[None]:
    """Wait until no other thread uses the network, and keep it for the body of the `with` block.

    A thread that has the turn takes it again at once, as the passes within a guided call do.

    Parameters
    ----------
    network : nn.Module
        The denoiser, with or without the wrapper of `torch.compile`.
    """
    with _lock(_LOCKS, network):
        yield


@contextmanager
def cascade_turn_of(networks: Sequence[Any]) -> Iterator[None]:
    """Wait until no cascade of another thread uses one of the networks; other calls of them go on meanwhile."""
    with ExitStack() as stack:
        for lock in sorted((_lock(_CASCADES, network) for network in networks), key=id):  # one order for all
            stack.enter_context(lock)
        yield


def _lock(locks: WeakKeyDictionary[Any, Any], network: Any) -> Any:
    network = getattr(network, "_orig_mod", network)
    with _MAKING:
        return locks.setdefault(network, threading.RLock())
