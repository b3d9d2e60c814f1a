"""The logger 'rekernel', which is silent unless the user gives it a handler.

Scope: names of loggers. Lines are of level DEBUG: which file is opened, what becomes of a layer, what is written, and
how long it took. `logging.basicConfig(level="DEBUG")` shows them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

ROOT = "rekernel"
logging.getLogger(ROOT).addHandler(logging.NullHandler())  # otherwise Python would print to stderr


def logger(module: str) -> logging.Logger:
    """The logger of a module, below 'rekernel'.

    Examples
    --------
    >>> logger("rekernel.offline").parent.name
    'rekernel'
    """
    return logging.getLogger(module)


@contextmanager
def timed(log: logging.Logger, what: str) -> Iterator[None]:
    """Log how long a block took, if it did not fail.

    Examples
    --------
    >>> with timed(logger("rekernel.offline"), "planning"):
    ...     pass
    """
    start = time.perf_counter()
    yield
    log.debug("%s: %.3f s", what, time.perf_counter() - start)
