"""One safetensors file on the disk. The file must stay as it was when its header was read.

Scope: a header, a file and plain reads. Not here: checkpoints of several files (see `checkpoint.tensor_source`). No
file is mapped into memory: a file that shrinks under a map kills the process, and a plain read gives an error message.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown_path
from .file_kind import open_regular
from .header import Header, parse_header, read_header


@dataclass(frozen=True)
class Shard:
    """One safetensors file; `signature` is what its size, time and inode were when its header was read."""

    path: Path
    header: Header
    signature: tuple[int, int, int, int]

    def open(self) -> int:
        """A descriptor for reading it."""
        fd = open_regular(self.path)
        if _signature(os.fstat(fd)) != self.signature:
            os.close(fd)
            raise self._changed()
        return fd

    def check_unchanged(self) -> None:
        """Raise where the file is no longer what was opened."""
        try:
            status = self.path.stat()
        except OSError:
            raise CheckpointError(
                f"{shown_path(self.path)}: vanished while it was read; nothing after this is right."
            ) from None
        if _signature(status) != self.signature:
            raise self._changed()

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"{shown_path(self.path)}: changed since it was opened; let its writer finish, then start again."
        )


def shard_of_file(path: Path) -> Shard:
    """The file at `path`, its header checked in full."""
    fd = open_regular(path)
    try:
        signature = _signature(os.fstat(fd))
        return Shard(path, read_header(fd, shown_path(path)), signature)
    finally:
        os.close(fd)


def shard_of_header(path: Path, raw: bytes, size: int, where: str) -> Shard:
    """A shard of which `path` holds the header `raw` alone, of a file of `size` bytes: its tensors cannot be read."""
    return Shard(path, parse_header(raw, size=size, where=shown_path(where)), _signature(path.stat()))


def read_at(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` of an open file, as far as one call to the system goes; how many bytes that was."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, min(len(view), 1 << 24))
    view[: len(data)] = data
    return len(data)


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino
