"""A place on the disk that holds a source, and where the source came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.open_local import open_checkpoint
from ..checkpoint.tensor_source import TensorSource


@dataclass(frozen=True)
class Origin:
    """The repository and commit that files came from; `root` is where on the disk they lie."""

    repo: str
    commit: str
    root: Path


@dataclass(frozen=True)
class Place:
    """A source on the disk."""

    path: Path

    def open(self, path: Path, *, allow_pickle: bool = False) -> TensorSource:
        """A checkpoint in it, as `open_checkpoint` does."""
        return open_checkpoint(path, allow_pickle=allow_pickle)

    def here(self, path: Path) -> Path:
        """A file of it on the disk, whole."""
        return path

    def named(self, path: Path) -> Path | str:
        """What to call a path in it."""
        return path
