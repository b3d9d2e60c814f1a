"""Let the system write a file to its disk while the rest of the file is computed.

Linux keeps written pages in memory until a tenth of the memory is full of these. A file that is synced only when the
last byte is there makes its writer wait for the disk at the end.
Scope: one open file. Not here: the sync that makes the file safe (see `checkpoint.atomic_file`).
"""

from __future__ import annotations

import os
import threading

_EVERY = 128 << 20  # bytes written between two syncs: a smaller file gets no thread


class EarlySync:
    """Sync an open file in a thread of its own, each time that many bytes were written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     sync = EarlySync(file.fileno())
    ...     sync.wrote(1)
    ...     sync.wait()
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._unsynced = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def wrote(self, nbytes: int) -> None:
        """Say that bytes were written. Several threads may call this at once."""
        with self._lock:
            self._unsynced += nbytes
            if self._unsynced < _EVERY or (self._thread is not None and self._thread.is_alive()):
                return
            self._unsynced = 0
            self._thread = threading.Thread(target=self._sync, name="rekernel-early-sync", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait for the sync that runs. The descriptor may be closed after that.

        Raises
        ------
        OSError
            If a sync failed: the system tells of a failed write only once, so the last sync may not say so.
        """
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        if self._error is not None:
            raise self._error

    def _sync(self) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(self._fd)
        except OSError as error:
            self._error = error
