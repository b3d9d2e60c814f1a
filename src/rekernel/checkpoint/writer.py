"""Write a safetensors file piece by piece, in any order of tensors.

Scope: the header, and which bytes were written. Not here: atomic files (see `checkpoint.atomic_file`).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from pickle import PickleBuffer
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .atomic_file import AtomicFile, check_free_space
from .header import TensorInfo, build_header, parse_header, shape_text
from .paths import StrPath

if TYPE_CHECKING:
    from typing_extensions import Buffer


class BytesTarget(Protocol):
    """Where the bytes of a file go: they appear whole at the end of a clean `with` block, or not at all.

    fd : descriptor of a file on this disk that the kernel may copy into; -1 for any other target
    """

    @property
    def fd(self) -> int: ...

    def check(self) -> None:
        """Raise if the destination may not be written."""

    def resize(self, nbytes: int) -> None:
        """Prepare for a file of this size."""

    def write_at(self, offset: int, view: memoryview) -> None:
        """Write bytes. Several threads may call this at once."""

    def discard(self) -> None:
        """Throw everything away."""

    def explained(self) -> AbstractContextManager[None]:
        """Turn errors of the system into errors of one line."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StreamingWriter:
    """Write a safetensors file whose tensors have known shapes and arrive in any order, in pieces.

    Parameters
    ----------
    path : path
        The destination, which does not change until everything is written and synced.
    tensors : iterable of (name, dtype, shape)
    metadata : mapping of str to str, or None
        The `__metadata__` map; None leaves the map out.
    force : bool
        Replace an existing destination.
    inputs : iterable of path
        Files that are read. The destination may not be one of these, under any name, also with `force`.
    like : path, optional
        A file whose permissions a new file gets, without the bits of the umask. A replaced file keeps its own.
    into : BytesTarget, optional
        Where the bytes go instead of the disk, such as an object in a store; `path` is then only its name.

    holes : int
        Bytes of zeros that nobody will write, so that the disk needs no room for these.

    data_at : int, optional
        As for `build_header`.

    Attributes
    ----------
    tensors : dict of str to TensorInfo, in the order of the data
    nbytes : int, size of the whole file in bytes

    Examples
    --------
    >>> import os, tempfile
    >>> from rekernel.checkpoint.shard import shard_of_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder, "out.safetensors")
    ...     with StreamingWriter(target, [("w", "F32", (2,)), ("b", "U8", (3,))], None) as writer:
    ...         writer.write("b", b"abc")
    ...         writer.write_at("w", 4, bytes(4))
    ...         writer.write_at("w", 0, bytes(4))
    ...     list(shard_of_file(target).header.tensors), os.listdir(folder)
    (['w', 'b'], ['out.safetensors'])
    """

    def __init__(
        self,
        path: StrPath,
        tensors: Iterable[tuple[str, str, Sequence[int]]],
        metadata: Mapping[str, str] | None,
        *,
        force: bool = False,
        inputs: Iterable[StrPath] = (),
        like: StrPath | None = None,
        holes: int = 0,
        data_at: int | None = None,
        into: BytesTarget | None = None,
    ) -> None:
        self._header, self.tensors = build_header(tensors, metadata, data_at=data_at)
        self.path = Path(path)
        self._where = shown_path(path)
        self.nbytes = len(self._header) + max((info.end for info in self.tensors.values()), default=0)
        # Byte ranges written so far, per tensor: sorted and disjoint, with adjacent ranges merged.
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in self.tensors}
        self._lock = threading.Lock()
        self._holes = holes
        self._on_disk = into is None
        self._file: BytesTarget = AtomicFile(path, force=force, inputs=inputs, like=like) if into is None else into

    @property
    def header(self) -> bytes:
        """The header as it is written."""
        return self._header

    def __enter__(self) -> Self:
        self._file.check()
        if self._on_disk:
            check_free_space(self.path.parent, max(0, self.nbytes - self._holes))
        self._file.__enter__()
        try:
            self._file.resize(self.nbytes)
            self._file.write_at(0, memoryview(self._header))
        except BaseException:
            self._file.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._check_complete()
            except CheckpointError:
                self._file.discard()
                raise
        self._file.__exit__(kind, error, trace)

    def write(self, name: str, buffer: Buffer) -> None:
        """Write the whole of tensor `name`, once, from a C-contiguous buffer of exactly its size."""
        info, view = self._info(name), self._flat(name, buffer)
        if view.nbytes != info.nbytes:
            raise CheckpointError(
                f"{self._of(name)}: {view.nbytes} bytes were given, but {info.dtype} of shape {shape_text(info.shape)} "
                f"takes {info.nbytes}."
            )
        self._write(name, 0, view)

    def write_at(self, name: str, byte_offset: int, buffer: Buffer) -> None:
        """Write a piece of tensor `name` at `byte_offset` of its data. Pieces may not overlap, or leave a gap."""
        info, view = self._info(name), self._flat(name, buffer)
        if byte_offset < 0 or byte_offset + view.nbytes > info.nbytes:
            raise CheckpointError(
                f"{self._of(name)}: bytes {byte_offset} to {byte_offset + view.nbytes} lie outside its "
                f"{info.nbytes} bytes."
            )
        self._write(name, byte_offset, view)

    def send_into(self, name: str, byte_offset: int, send: Callable[[int, int], int]) -> int:
        """Let `send(descriptor, position)` write bytes of tensor `name` to the file, and return how many it wrote.

        0 where the target is not a file on this disk.
        """
        if not isinstance(self._file, AtomicFile):
            return 0
        with self._file.explained():
            sent = send(self._file.fd, len(self._header) + self._info(name).start + byte_offset)
        with self._lock:
            self._claim(name, byte_offset, byte_offset + sent)
        self._file.wrote(sent)
        return sent

    def replace_placeholder(self, old: bytes, new: bytes) -> None:
        """Replace `old` by `new` in the header, for a value that is known only at the end, such as a digest.

        Both have the same length, and `old` occurs once in the header. The entries of tensors may not change.
        """
        if len(old) != len(new):
            raise CheckpointError(f"{self._where}: a placeholder of {len(old)} bytes cannot hold {len(new)} bytes.")
        found = self._header.count(old) if old else 0
        if found != 1:
            raise CheckpointError(f"{self._where}: the placeholder occurs {found} times in the header, not once.")
        patched = self._header.replace(old, new)
        if parse_header(patched, size=self.nbytes, where=self._where).tensors != self.tensors:
            raise CheckpointError(f"{self._where}: the placeholder is part of a tensor's entry, not of metadata.")
        self._file.write_at(0, memoryview(patched))
        self._header = patched

    def _write(self, name: str, offset: int, view: memoryview) -> None:
        with self._lock:  # claimed before writing, so that of two threads with the same bytes one fails
            self._claim(name, offset, offset + view.nbytes)
        self._file.write_at(len(self._header) + self.tensors[name].start + offset, view)

    def _claim(self, name: str, start: int, end: int) -> None:
        if start == end:
            return
        ranges = self._written[name]
        place = bisect_right(ranges, (start, start))
        before = ranges[place - 1] if place else (0, 0)
        after = ranges[place] if place < len(ranges) else (end, end)
        if before[1] > start or after[0] < end:
            raise CheckpointError(f"{self._of(name)}: bytes {start} to {end} were written already, at least in part.")
        joined = (before[0] if place and before[1] == start else start, after[1] if after[0] == end else end)
        ranges[place - (joined[0] < start) : place + (joined[1] > end)] = [joined]

    def _check_complete(self) -> None:
        for name, info in self.tensors.items():
            if info.nbytes and self._written[name] != [(0, info.nbytes)]:
                done = sum(end - start for start, end in self._written[name])
                raise CheckpointError(f"{self._of(name)}: {done} of {info.nbytes} bytes written; nothing was saved.")

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise CheckpointError(
                f"{self._of(name)}: is not among the {len(self.tensors)} tensors planned for this file."
            )
        return self.tensors[name]

    def _flat(self, name: str, buffer: Buffer) -> memoryview:
        view = memoryview(buffer)
        if not view.c_contiguous:
            raise CheckpointError(f"{self._of(name)}: the buffer is not C-contiguous; pass a contiguous copy.")
        if view.format[:1] in (">", "!") and view.itemsize > 1:
            raise CheckpointError(f"{self._of(name)}: the buffer is big-endian; safetensors holds little-endian data.")
        # Unlike memoryview.cast, raw() accepts complex numbers and shapes with a 0.
        return PickleBuffer(buffer).raw()

    def _of(self, name: str) -> str:
        return f"{self._where}: tensor {shown(name)}"
