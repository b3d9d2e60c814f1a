"""Write a safetensors file whose tensors are streamed to their offsets, in any order and in pieces.

Scope: the header, and which bytes were written. Not here: that the file appears whole or not at all (see
`checkpoint.atomic_file`).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from pickle import PickleBuffer
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .atomic_file import AtomicFile, check_free_space
from .header import TensorInfo, build_header, parse_header, shape_text
from .paths import StrPath

if TYPE_CHECKING:
    from typing_extensions import Buffer


class StreamingWriter:
    """A safetensors file of known shapes, whose tensors may arrive in any order and in pieces.

    Parameters
    ----------
    path : path
        The destination; untouched until everything is written and synced.
    tensors : iterable of (name, dtype, shape)
    metadata : mapping of str to str, or None
        Becomes `__metadata__`; None leaves it out.
    force : bool
        Replace an existing destination.
    inputs : iterable of path
        What is being read: none of these may be the destination, under whatever name, `force` or not.

    Attributes
    ----------
    tensors : dict of str to TensorInfo, in the order of the data
    nbytes : int, size of the whole file

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
    ) -> None:
        self._header, self.tensors = build_header(tensors, metadata)
        self.path = Path(path)
        self._where = shown_path(path)
        self.nbytes = len(self._header) + max((info.end for info in self.tensors.values()), default=0)
        # Per tensor the byte ranges written so far: sorted, disjoint, adjacent ones merged.
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in self.tensors}
        self._lock = threading.Lock()
        self._file = AtomicFile(path, force=force, inputs=inputs)

    def __enter__(self) -> Self:
        self._file.check()
        check_free_space(self.path.parent, self.nbytes)
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
        """Write the whole of tensor `name`, once: any C-contiguous buffer of exactly its bytes."""
        info, view = self._info(name), self._flat(name, buffer)
        if view.nbytes != info.nbytes:
            raise CheckpointError(
                f"{self._of(name)}: {view.nbytes} bytes given, {info.dtype} of shape {shape_text(info.shape)} "
                f"takes {info.nbytes}."
            )
        self._write(name, 0, view)

    def write_at(self, name: str, byte_offset: int, buffer: Buffer) -> None:
        """Write a piece of tensor `name`, `byte_offset` bytes into it; pieces may neither overlap nor leave a gap."""
        info, view = self._info(name), self._flat(name, buffer)
        if byte_offset < 0 or byte_offset + view.nbytes > info.nbytes:
            raise CheckpointError(
                f"{self._of(name)}: bytes {byte_offset} to {byte_offset + view.nbytes} lie outside its {info.nbytes}."
            )
        self._write(name, byte_offset, view)

    def send_into(self, name: str, byte_offset: int, send: Callable[[int, int], int]) -> int:
        """Let `send(descriptor, position)` put bytes of tensor `name` into the file; returns how many."""
        with self._file.explained():
            sent = send(self._file.fd, len(self._header) + self._info(name).start + byte_offset)
        with self._lock:
            self._claim(name, byte_offset, byte_offset + sent)
        return sent

    def replace_placeholder(self, old: bytes, new: bytes) -> None:
        """Put `new` in the place of `old` in the header: of equal length, found exactly once, still the same tensors.

        For what is known only at the end, such as a digest of the source.
        """
        if len(old) != len(new):
            raise CheckpointError(f"{self._where}: a placeholder of {len(old)} bytes cannot take {len(new)}.")
        found = self._header.count(old) if old else 0
        if found != 1:
            raise CheckpointError(f"{self._where}: the placeholder is {found} times in the header, not once.")
        patched = self._header.replace(old, new)
        if parse_header(patched, size=self.nbytes, where=self._where).tensors != self.tensors:
            raise CheckpointError(f"{self._where}: the placeholder is part of a tensor's entry, not of metadata.")
        self._file.write_at(0, memoryview(patched))
        self._header = patched

    def _write(self, name: str, offset: int, view: memoryview) -> None:
        with self._lock:  # claimed first: of two threads with the same bytes, one fails
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
            raise CheckpointError(f"{self._of(name)}: bytes {start} to {end} are written already, at least in part.")
        joined = (before[0] if place and before[1] == start else start, after[1] if after[0] == end else end)
        ranges[place - (joined[0] < start) : place + (joined[1] > end)] = [joined]

    def _check_complete(self) -> None:
        for name, info in self.tensors.items():
            if info.nbytes and self._written[name] != [(0, info.nbytes)]:
                done = sum(end - start for start, end in self._written[name])
                raise CheckpointError(f"{self._of(name)}: {done} of {info.nbytes} bytes written; nothing was saved.")

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise CheckpointError(f"{self._of(name)}: not among the {len(self.tensors)} tensors planned for this file.")
        return self.tensors[name]

    def _flat(self, name: str, buffer: Buffer) -> memoryview:
        view = memoryview(buffer)
        if not view.c_contiguous:
            raise CheckpointError(f"{self._of(name)}: the buffer is not C-contiguous; pass a contiguous copy.")
        if view.format[:1] in (">", "!") and view.itemsize > 1:
            raise CheckpointError(f"{self._of(name)}: the buffer is big-endian; safetensors holds little-endian data.")
        # Unlike memoryview.cast, raw() takes formats such as complex and shapes with a 0.
        return PickleBuffer(buffer).raw()

    def _of(self, name: str) -> str:
        return f"{self._where}: tensor {shown(name)}"
