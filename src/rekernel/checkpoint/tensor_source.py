"""List the tensors of a checkpoint of one or several files, and read them on demand.

Scope: shards whose headers were read already. Not here: how a path becomes a checkpoint (see `checkpoint.open_local`).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .header import BLOCK, TensorInfo
from .shard import Shard, read_at


class TensorSource(Protocol):
    """Anything whose tensors can be listed and read one at a time."""

    @property
    def path(self) -> Path:
        """The file or index that was opened."""

    @property
    def kind(self) -> str:
        """'file', 'sharded' or 'pickle'."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read. A conversion may not write to any of these."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors, in the order of their data in the files."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The `__metadata__` map; empty if the format has no metadata."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The safetensors files of the checkpoint; empty for a pickle."""

    def read(self, name: str) -> bytearray:
        """Return the bytes of a tensor, little-endian, in C order."""

    def read_range(self, name: str, start: int, stop: int) -> bytearray:
        """Return bytes `start` to `stop` of a tensor. Several threads may call this at once."""

    def send_range(self, name: str, start: int, stop: int, target: int, position: int) -> int:
        """Let the kernel copy bytes `start` to `stop` to `position` of the open file `target`.

        Returns how many bytes the kernel copied. The caller has to copy the rest.
        """

    def __iter__(self) -> Iterator[str]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(eq=False)
class Checkpoint:
    """An open safetensors checkpoint; closing it (or leaving its `with` block) closes its files.

    kind : 'file' or 'sharded'
    shards : the safetensors files, by file name; one for a file
    index : content of the index file, with its own metadata; None for a file
    tensors : entries of all shards, in the order of shards and of data; offsets count within the shard
    metadata : metadata of all shards together; if two shards differ, the value of the first one
    """

    path: Path
    kind: str
    shards: tuple[Shard, ...]
    index: dict[str, object] | None = None
    tensors: dict[str, TensorInfo] = field(init=False)
    metadata: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.tensors, self.metadata = {}, {}
        self._shard_of: dict[str, Shard] = {}
        self._open: dict[Path, int] = {}
        self._opening = threading.Lock()
        for shard in self.shards:
            self.tensors.update(shard.header.tensors)
            self._shard_of.update(dict.fromkeys(shard.header.tensors, shard))
            self.metadata = shard.header.metadata | self.metadata

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards, and the index if there is one."""
        shards = tuple(shard.path for shard in self.shards)
        return shards if self.index is None else (self.path, *shards)

    def shard_of(self, name: str) -> Shard:
        """Return the file that holds tensor `name`."""
        if name not in self._shard_of:
            raise CheckpointError(
                f"{shown_path(self.path)}: has no tensor {shown(name)} among its {len(self.tensors)}."
            )
        return self._shard_of[name]

    def read(self, name: str) -> bytearray:
        """Return a copy of the bytes of tensor `name`."""
        return self.read_range(name, 0, self.shard_of(name).header.tensors[name].nbytes)

    def read_range(self, name: str, start: int, stop: int) -> bytearray:
        """Return a copy of bytes `start` to `stop` of tensor `name`. Several threads may call this at once."""
        shard = self.shard_of(name)
        info = shard.header.tensors[name]
        if not 0 <= start <= stop <= info.nbytes:
            raise CheckpointError(
                f"{shown_path(shard.path)}: bytes {start} to {stop} lie outside tensor {shown(name)} of {info.nbytes}."
            )
        if start == stop:
            return bytearray()
        offset = shard.header.data_start + info.start + start
        if shard.reader is not None:  # its changes are looked for at the end: each look is a request
            return bytearray(shard.reader.read(offset, offset + stop - start))
        data = bytearray(stop - start)
        fd, view = self._descriptor(shard), memoryview(data)
        while view:
            try:
                done = read_at(fd, view, offset)
            except OSError as error:
                raise CheckpointError(f"{shown_path(shard.path)}: tensor {shown(name)}: {error.strerror}.") from None
            if not done:
                raise CheckpointError(
                    f"{shown_path(shard.path)}: the file was cut short while it was read, at tensor {shown(name)}."
                )
            offset, view = offset + done, view[done:]
        # Checked after reading, to find a change before or during the read.
        shard.check_unchanged()
        return data

    def check_unchanged(self) -> None:
        """Raise if a file was changed, replaced or removed since it was opened."""
        for shard in self.shards:
            shard.check_unchanged()

    def send_range(self, name: str, start: int, stop: int, target: int, position: int) -> int:
        """Let the kernel copy bytes `start` to `stop` of tensor `name` to `position` of the open file `target`.

        `target` is new, so its bytes are zeros until they are written. What is a hole in the source, zeros that take no
        place on the disk, stays one.

        Returns how many bytes the kernel copied: fewer than asked, or 0, if the system cannot copy between the two
        files or the disk is full. The plain write of the rest then reports a full disk.
        """
        shard, sent = self.shard_of(name), 0
        if shard.reader is not None or not hasattr(os, "copy_file_range"):
            return sent
        fd, offset = self._descriptor(shard), shard.header.data_start + shard.header.tensors[name].start + start
        with suppress(OSError):
            for first, last in _parts(fd, offset, offset + stop - start, shares=(offset - position) % BLOCK == 0):
                sent = first - offset
                while done := os.copy_file_range(fd, target, last - offset - sent, offset + sent, position + sent):
                    sent += done
                if sent < last - offset:
                    break
            else:
                sent = stop - start
        shard.check_unchanged()
        return sent

    def _descriptor(self, shard: Shard) -> int:
        with self._opening:
            if shard.path not in self._open:
                self._open[shard.path] = shard.open()
            return self._open[shard.path]

    def close(self) -> None:
        """Close the files. A later read opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process opens the files again."""
        return type(self), (self.path, self.kind, self.shards, self.index)

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()


def _parts(fd: int, start: int, stop: int, *, shares: bool) -> Iterator[tuple[int, int]]:
    """What to copy of an open file. Whole blocks are apart from what lies around them, if the disk can share these."""
    for first, last in _data(fd, start, stop):
        ends = sorted({first, min(first + -first % BLOCK, last), max(first, last - last % BLOCK), last})
        yield from pairwise(ends) if shares else [(first, last)]


def _data(fd: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of a file from `start` to `stop` that are not holes; all of it where the system does not tell."""
    if not hasattr(os, "SEEK_DATA"):
        yield start, stop
        return
    while start < stop:
        try:
            first = os.lseek(fd, start, os.SEEK_DATA)
            last = os.lseek(fd, first, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole follows
                yield start, stop
            return
        if first >= stop:
            return
        yield first, min(last, stop)
        start = last
