"""Hold a source on the disk, and the repository that it came from.

Scope: local paths. Not here: repositories (see `sources.hub_place`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.open_local import open_checkpoint
from ..checkpoint.tensor_source import TensorSource


@dataclass(frozen=True)
class Origin:
    """Where files came from: repository `repo` at `commit`, downloaded into folder `root`."""

    repo: str
    commit: str
    root: Path


@dataclass(frozen=True)
class Place:
    """A source on the disk, at `path`."""

    path: Path

    def open(self, path: Path, *, allow_pickle: bool = False) -> TensorSource:
        """Open a checkpoint of this source, as `open_checkpoint` does."""
        return open_checkpoint(path, allow_pickle=allow_pickle)

    def here(self, path: Path) -> Path:
        """Return the path of a file of this source, whole, on the disk."""
        return path

    def complete(self, path: Path) -> None:
        """Make sure that a small file can be read at `path`, if the source has it."""

    def named(self, path: Path) -> Path | str:
        """Return the name that messages use for a path of this source."""
        return path
