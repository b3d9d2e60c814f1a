"""Read one safetensors file, and raise if the file changes after its header was read.

Scope: a header, a file and plain reads. Not here: checkpoints of several files (see `checkpoint.tensor_source`). Files
are not mapped into memory: if a mapped file shrinks, the process is killed; a plain read raises an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .file_kind import open_regular
from .header import Header, parse_header, read_header


class RangeReader(Protocol):
    """A file that is not on this disk, and is read by ranges.

    version : what the store says of the version of the file
    """

    @property
    def version(self) -> tuple[str, ...]: ...

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` of the file. Several threads may call this at once."""

    def check_unchanged(self) -> None:
        """Raise if the file was changed since its header was read."""


@dataclass(frozen=True)
class Shard:
    """One safetensors file.

    signature : size, time of change, device and inode of the file when its header was read
    reader : where to read the file if it is not on this disk; `path` is then the name of its stand-in
    """

    path: Path
    header: Header
    signature: tuple[int, int, int, int]
    reader: RangeReader | None = None

    @property
    def nbytes(self) -> int:
        """Size of the whole file, which its header tells exactly."""
        last = next(reversed(self.header.tensors.values()), None)
        return self.header.data_start + (last.end if last else 0)

    @property
    def version(self) -> list[int | str]:
        """The size and what tells this version of the file from another one, for every process that sees the file."""
        return [self.nbytes, *self.reader.version] if self.reader is not None else list(self.signature[:2])

    @property
    def holes(self) -> int:
        """Bytes that take no place on the disk, and take none in a copy either."""
        try:
            status = self.path.stat()
            return max(0, status.st_size - status.st_blocks * 512) if self.reader is None else 0
        except (OSError, AttributeError):  # removed meanwhile, which the first read tells; or Windows
            return 0

    def open(self) -> int:
        """Open the file for reading, and return its descriptor."""
        fd = open_regular(self.path)
        if _signature(os.fstat(fd)) != self.signature:
            os.close(fd)
            raise self._changed()
        return fd

    def seen_here(self) -> Shard:
        """The same file as another machine sees it: a disk that both mount has another number there.

        Raises
        ------
        CheckpointError
            If the file has another size or time of change, or is not there.
        """
        if self.reader is not None:
            return self
        try:
            signature = _signature(self.path.stat())
        except OSError as error:
            reason = shown(error.strerror or str(error))
            raise CheckpointError(f"{shown_path(self.path)}: {reason}, where a worker looked for it.") from None
        if signature[:2] != self.signature[:2]:
            raise self._changed()
        return replace(self, signature=signature)

    def check_unchanged(self) -> None:
        """Raise if the file was changed, replaced or removed since it was opened."""
        if self.reader is not None:
            self.reader.check_unchanged()
            return
        try:
            status = self.path.stat()
        except OSError:
            raise CheckpointError(
                f"{shown_path(self.path)}: the file was removed while it was read; the result is not complete."
            ) from None
        if _signature(status) != self.signature:
            raise self._changed()

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"{shown_path(self.path)}: the file changed since it was opened; "
            "wait until its writer has finished, then start again."
        )


def shard_of_file(path: Path) -> Shard:
    """Read and check the header of the file at `path`."""
    fd = open_regular(path)
    try:
        signature = _signature(os.fstat(fd))
        return Shard(path, read_header(fd, shown_path(path)), signature)
    finally:
        os.close(fd)


def shard_of_header(path: Path, raw: bytes, size: int, where: str, reader: RangeReader | None = None) -> Shard:
    """Return a shard for a file of `size` bytes of which only the header `raw` is at hand.

    `path` is its stand-in. Its tensors are read by `reader`; without a reader they cannot be read. `where` names the
    file in messages.
    """
    return Shard(path, parse_header(raw, size=size, where=shown_path(where)), _signature(path.stat()), reader)


def read_at(fd: int, view: memoryview, offset: int) -> int:
    """Read bytes from `offset` of an open file into `view` with one system call; return how many bytes were read."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, min(len(view), 1 << 24))
    view[: len(data)] = data
    return len(data)


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino
