"""List the objects that a conversion into a store has finished, so that an interrupted conversion can be resumed.

Scope: names, sizes and versions. Not here: writing weights (see `conversion.to_store`). The list is an object in the
destination until the conversion ends. An object whose size and version are those in the list is the one that was
written, so that its bytes need not be read again.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..sources.store_address import StoreAddress
from ..sources.store_client import StoreError, info_of, remove, version_of
from ..sources.store_file import store_file
from ..sources.store_object import put
from .journal import NAME

Entry = tuple[int, list[str], str]
"""Size and version of a finished object, and what it was made from."""


@dataclass
class StoreJournal:
    """The list of finished objects in a folder.

    folder : address of the destination
    enabled : whether to keep a list; a conversion to one file does not need one
    finished : entries by name
    """

    folder: StoreAddress
    enabled: bool
    finished: dict[str, Entry] = field(default_factory=dict)

    def read(self) -> None:
        """Read what an earlier run finished. A list that cannot be read counts as empty."""
        with suppress(StoreError, ValueError, RecursionError):
            entries = json.loads(store_file(self.folder / NAME).whole())
            if isinstance(entries, dict):
                self.finished = {name: entry for name, value in entries.items() if (entry := _entry(value))}

    def add(self, name: str, made_from: str) -> None:
        """Add a finished object.

        Parameters
        ----------
        name : str
            Name relative to the folder.
        made_from : str
            Text that differs if the object would be written differently now.
        """
        if not self.enabled:
            return
        info = info_of(self.folder / name) or {}
        self.finished[name] = int(info.get("size") or 0), list(version_of(info)), made_from
        put(self.folder / NAME, json.dumps(self.finished, sort_keys=True).encode(), force=True)

    def holds(self, name: str, made_from: str) -> bool:
        """Whether an earlier run finished this object, from the same sources, and the object did not change since."""
        entry = self.finished.get(name)
        if not self.enabled or entry is None or entry[2] != made_from:
            return False
        info = info_of(self.folder / name)
        return info is not None and (info.get("size"), list(version_of(info))) == (entry[0], entry[1])

    def forget(self, name: str) -> None:
        """Take an object that will be written again out of the list."""
        self.finished.pop(name, None)

    def end(self) -> None:
        """Remove the list."""
        if self.enabled:
            remove(self.folder / NAME)


def is_unfinished(target: StoreAddress) -> bool:
    """Whether an interrupted conversion has left objects in a folder to continue from, as far as the store says."""
    try:
        return info_of(target / NAME) is not None
    except StoreError:
        return False


def _entry(value: Any) -> Entry | None:
    kinds = (int, list, str)
    if isinstance(value, list) and len(value) == 3 and all(map(isinstance, value, kinds)):
        return value[0], [str(part) for part in value[1]], value[2]
    return None
