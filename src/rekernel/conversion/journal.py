"""List the files that a conversion has finished, so that an interrupted conversion can be resumed.

Scope: names, sizes and digests. Not here: writing weights (see `conversion.run`). The list is a file in the destination
until the conversion ends. A file with the size and digest in the list is the one that was written.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoint.atomic_file import write_atomic
from ..checkpoint.locked_file import identity
from ..checkpoint.strict_json import read_object
from ..errors import RekernelError

NAME = ".rekernel-journal.json"
_PIECE = 1 << 22

Finished = tuple[int, str]
"""Size of a finished file in bytes, and its SHA-256."""


@dataclass
class Journal:
    """The list of finished files in a folder.

    root : folder of the destination
    enabled : whether to keep a list; a conversion to one file does not need one
    finished : size and digest of each finished file, by name
    """

    root: Path
    enabled: bool = True
    finished: dict[str, Finished] = field(default_factory=dict)
    _before: dict[Path, tuple[int, int] | None] = field(default_factory=dict)
    _pool: ThreadPoolExecutor | None = None
    _ending: threading.Event = field(default_factory=threading.Event)

    def read(self) -> dict[str, Finished]:
        """Read what an earlier run finished. A list that cannot be read counts as empty."""
        try:
            entries = read_object(self.root / NAME, "journal")
            self.finished = {name: _entry(value) for name, value in entries.items()}
        except (RekernelError, ValueError, OSError):
            self.finished = {}
        return dict(self.finished)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the list during the body of the `with` block; remove it at the end, unless the body fails.

        A thread reads finished files to compute their digests, so the conversion goes on meanwhile. Where the body
        fails, the digests of all finished files are waited for.
        """
        with ThreadPoolExecutor(1) as pool:
            # The thread starts now: an interrupt while it starts would leave a thread that nobody waits for.
            pool.submit(int).result()
            self._pool = pool
            try:
                yield
            except BaseException:  # an interrupt may come after a file has appeared and before it was added
                for path, before in [*self._before.items()]:
                    if identity(path) not in (None, before):
                        self.add(path)
                raise
            self._ending.set()
        (self.root / NAME).unlink(missing_ok=True)

    def start(self) -> None:
        """Write the list, which may be empty: the folder is one to continue from."""
        if self.enabled:
            write_atomic(self.root / NAME, json.dumps(self.finished, sort_keys=True).encode(), force=True)

    def expect(self, path: Path) -> None:
        """Say that a file will be written: a failure adds it to the list if it has appeared by then."""
        self._before[path] = identity(path)

    def add(self, path: Path) -> None:
        """Add a finished file to the list, as soon as its digest is known."""
        if self.enabled and self._pool is not None:
            self._pool.submit(self._add, path)
        self._before.pop(path, None)

    def holds(self, path: Path) -> bool:
        """Whether the list of an earlier run has exactly this file. Its bytes are read again."""
        if not self.enabled:
            return False
        known = self.finished.get(path.relative_to(self.root).as_posix())
        return known is not None and path.stat().st_size == known[0] and self._digest(path) == known[1]

    def _add(self, path: Path) -> None:
        if digest := self._digest(path):
            self.finished[path.relative_to(self.root).as_posix()] = path.stat().st_size, digest
            self.start()

    def _digest(self, path: Path) -> str:
        """The digest of a file; empty where the conversion ends first, which needs the list no longer."""
        found = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                if self._ending.is_set():
                    return ""
                found.update(piece)
        return found.hexdigest()


def _entry(value: object) -> Finished:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and isinstance(value[1], str):
        return value[0], value[1]
    raise ValueError("not the size and the digest of a file")
