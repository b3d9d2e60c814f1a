"""Progress of long calls: a callback of the caller's own, or a bar of tqdm.

Scope: the argument `progress`. tqdm is imported when a bar is asked for, since it is an extra.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import RekernelError
from .log import logger

__all__ = ["Progress", "Steps", "logger", "shown_progress"]

Progress = Callable[[int, int], None]
"""Called with what is done, and with all that there is to do."""


@contextmanager
def shown_progress(progress: Progress | bool | None, what: str, unit: str = "B") -> Iterator[Progress | None]:
    """The callback for an argument `progress`: True shows a bar until the block ends.

    Parameters
    ----------
    progress : callable, bool or None
    what : str
        Text beside the bar.
    unit : str
        What is counted: 'B' for bytes.

    Raises
    ------
    RekernelError
        For any other value, and for True where tqdm is missing.

    Examples
    --------
    >>> with shown_progress(None, "converting") as callback:
    ...     callback is None
    True
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with _tqdm()(desc=what, unit=unit, unit_scale=unit == "B", leave=False) as bar:
            yield lambda done, total: _move(bar, done, total)
    elif callable(progress):
        yield progress
    else:
        raise RekernelError(
            f"progress={str(progress)[:80]!r} is neither True nor a function; pass progress=True for a bar, or a "
            f"function that takes (done, total)"
        )


class Steps:
    """The steps of a call, which a callback counts and the log times.

    Parameters
    ----------
    names : sequence of str
    callback : callable or None
    log : logging.Logger

    Examples
    --------
    >>> steps = Steps(["tracing", "planning"], lambda done, total: print(done, "of", total), logger("rekernel.torch"))
    0 of 2
    >>> steps.next()
    1 of 2
    """

    def __init__(self, names: Sequence[str], callback: Progress | None, log: logging.Logger) -> None:
        self.names, self.callback, self.log = names, callback, log
        self.done, self.since = 0, time.perf_counter()
        self._tell()

    def next(self) -> None:
        """End a step, and begin the next one."""
        now = time.perf_counter()
        self.log.debug("%s: %.3f s", self.names[self.done], now - self.since)
        self.done, self.since = self.done + 1, now
        self._tell()

    def _tell(self) -> None:
        if self.callback is not None:
            self.callback(self.done, len(self.names))


def _move(bar: Any, done: int, total: int) -> None:
    if bar.total != total:
        bar.reset(total)  # a bar of Jupyter also redraws its width
    bar.update(done - bar.n)


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise RekernelError(
            "progress=True needs tqdm, which is not installed (pip install tqdm); or pass a function of your own that "
            "takes (done, total)"
        ) from None
    return tqdm
