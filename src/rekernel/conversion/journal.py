"""List the files that a conversion has finished, so that an interrupted conversion can be resumed.

Scope: names, sizes and times. Not here: writing weights (see `conversion.run`). The list is a file in the destination
until the conversion ends. A file with the size and time in the list was not changed since it was written.
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
    """The list of finished files in a folder.

    root : folder of the destination
    enabled : whether to keep a list; a conversion to one file does not need one
    stamps : size and time of each finished file, by name
    """

    root: Path
    enabled: bool = True
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self) -> dict[str, tuple[int, int]]:
        """Read what an earlier run finished. A list that cannot be read counts as empty."""
        try:
            entries = read_object(self.root / NAME, "journal")
            self.stamps = {str(name): (int(stamp[0]), int(stamp[1])) for name, stamp in entries.items()}
        except (ValueError, TypeError, IndexError, KeyError):
            self.stamps = {}
        return dict(self.stamps)

    def add(self, path: Path) -> None:
        """Add a finished file to the list."""
        if self.enabled:
            self.stamps[path.relative_to(self.root).as_posix()] = self.stamp(path)
            write_atomic(self.root / NAME, json.dumps(self.stamps, sort_keys=True).encode(), force=True)

    def remove(self) -> None:
        """Remove the list, at the end of the conversion."""
        (self.root / NAME).unlink(missing_ok=True)

    @staticmethod
    def stamp(path: Path) -> tuple[int, int]:
        """Return the size of a file, and the time of its last change in nanoseconds."""
        status = path.stat()
        return status.st_size, status.st_mtime_ns
