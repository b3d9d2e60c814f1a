"""Keep Python's garbage collector from running while a model is traced.

A collection walks every object of the process, of which torch and a model have hundreds of thousands, and a trace makes
enough objects to start several. A trace leaves no cycles behind: its objects go when the last reference does.
Scope: the collector. Not here: what a trace keeps (see `tracing.recorder`).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_blocks = 0
"""Number of blocks that run now, in all threads: the collector is one for the process."""
_enabled = True
"""Whether the collector ran before the first of these blocks."""


@contextmanager
def without_collections() -> Iterator[None]:
    """Stop the collector until the last such block ends, in any thread; then it runs again, if it ran before.

    Examples
    --------
    >>> with without_collections(), without_collections():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    global _blocks, _enabled
    with _lock:
        if not _blocks:
            _enabled = gc.isenabled()
            gc.disable()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks and _enabled:
                gc.enable()
