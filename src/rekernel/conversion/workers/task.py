"""Write one file of weights, or hash one file of the source, in any process that sees the same files.

A task may be run twice, also at the same time: the second run waits for the lock of the file that is written, and
writes the same bytes again.
Scope: what a worker does. Not here: who shares out the tasks (see `conversion.workers.sharing`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ...checkpoint.atomic_file import remove_partial
from ...checkpoint.header import build_header
from ...checkpoint.tensor_source import Checkpoint, TensorSource
from ...checkpoint.writer import StreamingWriter
from ...errors import BusyError
from ...sources.store_address import StoreAddress
from ...sources.store_object import StoreObject
from ..digests import check_unchanged, digest_of
from ..output_files import OutputFile
from ..shared_blocks import data_at
from ..streaming import stream

Result = TypeVar("Result")
_PATIENCE = 600.0
"""Seconds to wait for another run of the same task, such as one whose machine was believed to be lost."""


@dataclass(frozen=True)
class WriteTask:
    """One file of weights to write.

    target : where to
    metadata : the metadata of the file, with the digests of the source or placeholders for them
    like : file whose permissions a new file gets
    threads : threads that compute
    run : name of the conversion, so that a scheduler does not take two runs of one task for one
    """

    source: Checkpoint
    file: OutputFile
    target: Path | StoreAddress
    metadata: dict[str, str]
    like: Path
    allow_cast: bool
    threads: int = 1
    run: str = ""

    @property
    def tensors(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of every tensor of the file."""
        return [(t.change.name, t.dtype, t.change.new_shape) for t in self.file.tensors]

    @property
    def header(self) -> bytes:
        """The header of the file."""
        return build_header(self.tensors, self.metadata, data_at=data_at(self.source, self.file))[0]


@dataclass(frozen=True)
class DigestTask:
    """File number `index` of a source, to hash."""

    source: Checkpoint
    index: int
    run: str = ""


@dataclass(frozen=True)
class Written:
    """What became of a task: bytes of the file, and rescaled tensors with values that are not finite."""

    nbytes: int
    broken: tuple[str, ...] = ()


def write_file(task: WriteTask) -> Written:
    """Write the file. It appears whole or not at all.

    Raises
    ------
    CheckpointError
        If the source is not the one that was planned for, here or by the end.
    """

    def write() -> Written:
        target = task.target
        with _here(task.source) as source:
            if isinstance(target, StoreAddress):
                found = write_object(
                    source, task.file, target, task.metadata, force=True, allow_cast=task.allow_cast,
                    threads=task.threads,
                )  # fmt: skip
                return Written(0, tuple(found))
            with StreamingWriter(
                target,
                task.tensors,
                task.metadata,
                force=True,
                inputs=source.files,
                like=task.like,
                holes=sum(shard.holes for shard in source.shards),
                data_at=data_at(source, task.file),
            ) as writer:
                broken = stream(source, task.file, writer, allow_cast=task.allow_cast, threads=task.threads)
                check_unchanged(source)
        return Written(writer.nbytes, tuple(broken))

    return when_free(write)


def write_object(
    source: TensorSource,
    file: OutputFile,
    address: StoreAddress,
    metadata: Mapping[str, str],
    *,
    force: bool,
    allow_cast: bool = False,
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> list[str]:
    """Write one file of weights to a store, front to back.

    Parameters
    ----------
    metadata : mapping
        The metadata with the digests of the source, since the header is sent first.

    Returns
    -------
    names of the rescaled tensors with values that are not finite, as `stream`
    """
    tensors = [(t.change.name, t.dtype, t.change.new_shape) for t in file.tensors]
    into = StoreObject(address, force=force)
    start = data_at(source, file)
    with StreamingWriter(address.name, tensors, metadata, force=force, data_at=start, into=into) as writer:
        by_name = {tensor.change.name: tensor for tensor in file.tensors}
        in_order = replace(file, tensors=tuple(by_name[name] for name in writer.tensors))
        broken = stream(source, in_order, writer, allow_cast=allow_cast, progress=progress, threads=threads)
        check_unchanged(source)
    return broken


def hash_file(task: DigestTask) -> str:
    """The SHA-256 of a file of the source, in hexadecimal digits."""
    with _here(task.source) as source:
        return digest_of(source.shards[task.index])


def size_of(path: Path) -> int | None:
    """Bytes of a file; None if it is not there. The folder is listed first, or a shared disk may answer from memory.

    Examples
    --------
    >>> size_of(Path("no/such/file")) is None
    True
    """
    try:
        with os.scandir(path.parent) as entries:
            next(entries, None)
        return path.stat().st_size
    except OSError:
        return None


def remove_partials(paths: Iterable[Path], *, patience: float = 5.0) -> None:
    """Remove what killed workers have written of files. One that is about to be killed is waited for."""
    until = time.monotonic() + patience
    for path in paths:
        while not remove_partial(path) and time.monotonic() < until:
            time.sleep(0.05)


def when_free(write: Callable[[], Result], *, patience: float = _PATIENCE, pause: float = 0.2) -> Result:
    """Call `write`, and call it again while another run of the same task holds the lock of its file.

    Examples
    --------
    >>> when_free(lambda: 1)
    1
    """
    until = time.monotonic() + patience
    while True:
        try:
            return write()
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(pause)


def _here(source: Checkpoint) -> Checkpoint:
    """The same checkpoint as this machine sees it."""
    return replace(source, shards=tuple(shard.seen_here() for shard in source.shards))
