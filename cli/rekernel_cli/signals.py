"""Let SIGTERM and SIGHUP end a command as Ctrl-C does: clean up, say so, and exit with 128 plus the signal's number.

Scope: handlers of signals. Not here: the message (see `main`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = ("SIGTERM", "SIGHUP")
_received = [signal.SIGINT]


def exit_code() -> int:
    """The exit code of a command that a signal ended.

    Examples
    --------
    >>> exit_code()
    130
    """
    return 128 + _received[-1]


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt for the signals in the `with` block; a second signal ends the process at once.

    A signal that the caller ignores (as `nohup` does) or handles stays as it is.
    """
    del _received[1:]
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        _received.append(signal.Signals(number))
        raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
