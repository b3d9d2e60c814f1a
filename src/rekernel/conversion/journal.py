"""List the files that an interrupted conversion had finished. The list lies in the destination until all is done.

Scope: names, sizes and times. A file whose size and time are still those in the list was written by the conversion and
was not changed since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoint.atomic_file import write_atomic
from ..checkpoint.strict_json import read_object

NAME = ".rekernel-journal.json"


@dataclass
class Journal:
    """The list of finished files in folder `root`; does nothing where not `enabled` (one file needs none)."""

    root: Path
    enabled: bool = True
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self) -> dict[str, tuple[int, int]]:
        """What an earlier run finished; anything unreadable counts as nothing."""
        try:
            entries = read_object(self.root / NAME, "journal")
            self.stamps = {str(name): (int(stamp[0]), int(stamp[1])) for name, stamp in entries.items()}
        except (ValueError, TypeError, IndexError, KeyError):
            self.stamps = {}
        return dict(self.stamps)

    def add(self, path: Path) -> None:
        """Note that `path` is in its place."""
        if self.enabled:
            self.stamps[path.relative_to(self.root).as_posix()] = self.stamp(path)
            write_atomic(self.root / NAME, json.dumps(self.stamps, sort_keys=True).encode(), force=True)

    def remove(self) -> None:
        """Everything is done."""
        (self.root / NAME).unlink(missing_ok=True)

    @staticmethod
    def stamp(path: Path) -> tuple[int, int]:
        """Size and time of last change, in nanoseconds."""
        status = path.stat()
        return status.st_size, status.st_mtime_ns
