"""Open checkpoints: list the tensors of one or several files by name, and read a tensor when it is asked for.

Scope: shards whose headers are read already. Not here: how a path becomes a checkpoint (see `checkpoint.open_local`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .header import TensorInfo
from .shard import Shard, read_at


class TensorSource(Protocol):
    """Anything whose tensors can be listed and read one at a time."""

    @property
    def path(self) -> Path:
        """What was opened."""

    @property
    def kind(self) -> str:
        """'file', 'sharded' or 'pickle'."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read: none of them may be a destination."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors, in the order in which reading them is sequential."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """`__metadata__`; empty where the format has none."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The safetensors files behind it; empty for a pickle."""

    def read(self, name: str) -> bytearray:
        """The tensor's bytes, little-endian, C order."""

    def read_range(self, name: str, start: int, stop: int) -> bytearray:
        """Those of its bytes; safe to call from several threads."""

    def send_range(self, name: str, start: int, stop: int, target: int, position: int) -> int:
        """Bytes of the same that the kernel copied to `position` of the open file `target`; the rest is to be read."""

    def __iter__(self) -> Iterator[str]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(eq=False)
class Checkpoint:
    """An open safetensors checkpoint; closing it (or leaving its `with` block) closes its files.

    kind : 'file' or 'sharded'
    shards : in the order of their file names; one for a file
    index : the index as it was read, with its own metadata; None for a file
    tensors : of all shards, shard after shard in file order; offsets are those within the shard
    metadata : of all shards together, the first shard's value where two differ
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
        """The file that holds tensor `name`."""
        if name not in self._shard_of:
            raise CheckpointError(f"{shown_path(self.path)}: no tensor {shown(name)}, among {len(self.tensors)}.")
        return self._shard_of[name]

    def read(self, name: str) -> bytearray:
        """The bytes of tensor `name`, in memory of their own."""
        return self.read_range(name, 0, self.shard_of(name).header.tensors[name].nbytes)

    def read_range(self, name: str, start: int, stop: int) -> bytearray:
        """Bytes `start` to `stop` of tensor `name`; safe to call from several threads."""
        shard = self.shard_of(name)
        info = shard.header.tensors[name]
        if not 0 <= start <= stop <= info.nbytes:
            raise CheckpointError(
                f"{shown_path(shard.path)}: bytes {start} to {stop} lie outside tensor {shown(name)} of {info.nbytes}."
            )
        data = bytearray(stop - start)
        if not data:
            return data
        fd, offset, view = self._descriptor(shard), shard.header.data_start + info.start + start, memoryview(data)
        while view:
            try:
                done = read_at(fd, view, offset)
            except OSError as error:
                raise CheckpointError(f"{shown_path(shard.path)}: tensor {shown(name)}: {error.strerror}.") from None
            if not done:
                raise CheckpointError(
                    f"{shown_path(shard.path)}: cut short while it was read, at tensor {shown(name)}."
                )
            offset, view = offset + done, view[done:]
        # Looked at after reading, so that a change before it and during it both show.
        shard.check_unchanged()
        return data

    def check_unchanged(self) -> None:
        """Raise where a file is no longer what was opened."""
        for shard in self.shards:
            shard.check_unchanged()

    def send_range(self, name: str, start: int, stop: int, target: int, position: int) -> int:
        """Let the kernel copy bytes `start` to `stop` of tensor `name` to `position` of the open file `target`.

        Returns how many it copied: fewer than asked, down to 0, where the system cannot (and on a full disk, which
        plain writing will report).
        """
        shard, sent = self.shard_of(name), 0
        if not hasattr(os, "copy_file_range"):
            return sent
        fd, offset = self._descriptor(shard), shard.header.data_start + shard.header.tensors[name].start + start
        with suppress(OSError):
            while done := os.copy_file_range(fd, target, stop - start - sent, offset + sent, position + sent):
                sent += done
        shard.check_unchanged()
        return sent

    def _descriptor(self, shard: Shard) -> int:
        with self._opening:
            if shard.path not in self._open:
                self._open[shard.path] = shard.open()
            return self._open[shard.path]

    def close(self) -> None:
        """Close the files; reading again reopens them."""
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

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()
