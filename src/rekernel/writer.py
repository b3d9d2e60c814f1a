"""Files that appear whole or not at all: tensors streamed to their offsets, and the small files around them.

Knows headers, bytes and the file system; nothing of what the bytes mean. Everything goes through `_AtomicFile`: a
hidden partial file beside the destination, synced and renamed over it at the very end.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from pickle import PickleBuffer
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .escape import shown
from .header import CheckpointError, TensorInfo, build_header, open_regular, parse_header, shape_text

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which protects it as well
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing_extensions import Buffer

StrPath = str | os.PathLike[str]


def human_size(nbytes: int) -> str:
    """A size as a person reads it.

    Examples
    --------
    >>> human_size(0), human_size(1023), human_size(3_500_000), human_size(6_900_000_000)
    ('0 B', '1023 B', '3.3 MiB', '6.4 GiB')
    """
    size, units = float(nbytes), ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    if nbytes < 1024:
        return f"{nbytes} B"
    for unit in units:
        size /= 1024
        if size < 1024 or unit == units[-1]:
            break
    return f"{size:.1f} {unit}"


def check_free_space(folder: StrPath, needed_bytes: int) -> None:
    """Refuse to begin what cannot be finished: `folder` has to have `needed_bytes` free.

    Examples
    --------
    >>> check_free_space(".", 1)
    >>> check_free_space(".", 2**62)
    Traceback (most recent call last):
    rekernel.header.CheckpointError: .: 4.0 EiB needed, ... free: make room, or write to another disk.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise CheckpointError(
            f"{_where(folder)}: {human_size(needed_bytes)} needed, {human_size(free)} free: "
            "make room, or write to another disk."
        )


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
    >>> import tempfile
    >>> from rekernel.header import read_header
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder, "out.safetensors")
    ...     with StreamingWriter(target, [("w", "F32", (2,)), ("b", "U8", (3,))], None) as writer:
    ...         writer.write("b", b"abc")
    ...         writer.write_at("w", 4, bytes(4))
    ...         writer.write_at("w", 0, bytes(4))
    ...     list(read_header(target).tensors), os.listdir(folder)
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
        self.nbytes = len(self._header) + max((info.end for info in self.tensors.values()), default=0)
        # Per tensor the byte ranges written so far: sorted, disjoint, adjacent ones merged.
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in self.tensors}
        self._lock = threading.Lock()
        self._file = _AtomicFile(path, force=force, inputs=inputs)

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
            raise CheckpointError(f"{_where(self.path)}: a placeholder of {len(old)} bytes cannot take {len(new)}.")
        found = self._header.count(old) if old else 0
        if found != 1:
            raise CheckpointError(f"{_where(self.path)}: the placeholder is {found} times in the header, not once.")
        patched = self._header.replace(old, new)
        if parse_header(patched, size=self.nbytes, where=_where(self.path)).tensors != self.tensors:
            raise CheckpointError(f"{_where(self.path)}: the placeholder is part of a tensor's entry, not of metadata.")
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
        return f"{_where(self.path)}: tensor {shown(name)}"


def write_atomic(path: StrPath, data: Buffer, *, force: bool = False, inputs: Iterable[StrPath] = ()) -> None:
    """Write a small file whole or not at all, under the rules of `StreamingWriter`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder, "index.json"), b"{}")
    ...     Path(folder, "index.json").read_bytes()
    b'{}'
    """
    with _AtomicFile(path, force=force, inputs=inputs) as file:
        file.write_at(0, PickleBuffer(data).raw())


def copy_atomic(source: StrPath, path: StrPath, *, force: bool = False, inputs: Iterable[StrPath] = ()) -> None:
    """Copy a regular file of any size whole or not at all, under the rules of `StreamingWriter`."""
    with _AtomicFile(path, force=force, inputs=[source, *inputs]) as file:
        fd = open_regular(source)
        try:
            size = os.fstat(fd).st_size
            check_free_space(file.path.parent, size)
            file.copy_from(fd, size, _where(source))
        finally:
            os.close(fd)


class _AtomicFile:
    """A partial file that becomes `path` on a clean exit, and vanishes on any other; the one place that renames."""

    def __init__(self, path: StrPath, *, force: bool, inputs: Iterable[StrPath]) -> None:
        self.path = Path(path)
        self.force = force
        self._inputs = {identity for source in inputs if (identity := _identity(source)) is not None}
        name = f".{self.path.name}.rekernel-partial"
        if len(os.fsencode(name)) > 255:
            name = f".{sha256(os.fsencode(self.path.name)).hexdigest()}.rekernel-partial"
        self.partial = self.path.with_name(name) if self.path.name else self.path
        self.fd, self._entered = -1, False  # entered: there is a partial file, ours to rename or remove
        self._position = threading.Lock()

    def check(self) -> None:
        """Whether the destination may be written at all."""
        with self.explained():
            self._check()

    def _check(self) -> None:
        where, folder = _where(self.path), self.path.parent
        if not folder.is_dir():
            raise CheckpointError(f"{where}: its folder {_where(folder)} does not exist; create it first.")
        if self.path.is_dir() or not self.path.name:
            raise CheckpointError(f"{where}: is a folder; name a file in it.")
        if _identity(self.path) in self._inputs:
            raise CheckpointError(f"{where}: is the very file that is read; give the result another name.")
        if os.path.lexists(self.path):
            if not self.force:
                raise CheckpointError(f"{where}: exists already; pass --force to replace it.")
            if self.path.exists() and not self.path.is_file():
                raise CheckpointError(f"{where}: neither a file nor absent; name a regular file.")

    def __enter__(self) -> Self:
        self.check()
        with self.explained():
            self.fd = self._open_locked()
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.discard()
            return
        try:
            with self.explained():
                self._commit()
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written; the destination stays as it was."""
        if not self._entered:
            return
        self._entered = False
        if os.name == "nt":
            self._close()
        # Elsewhere removed while the lock is still held, or a successor's file could be hit.
        with suppress(OSError):
            self.partial.unlink()
        self._close()

    def resize(self, nbytes: int) -> None:
        with self.explained():
            os.ftruncate(self.fd, nbytes)

    def write_at(self, offset: int, view: memoryview) -> None:
        if self.fd < 0:
            raise CheckpointError(f"{_where(self.path)}: not open for writing; use it inside its `with` block.")
        with self.explained():
            while view:
                done = self._write_some(offset, view)
                offset, view = offset + done, view[done:]

    def copy_from(self, source: int, size: int, where: str) -> None:
        with self.explained():
            copied = self._copy_in_kernel(source, size)
            os.lseek(source, copied, os.SEEK_SET)
            while piece := os.read(source, 1 << 20):
                self.write_at(copied, memoryview(piece))
                copied += len(piece)
        if copied != size:
            raise CheckpointError(f"{where}: changed while it was copied ({size} bytes, then {copied}); try again.")

    def _copy_in_kernel(self, source: int, size: int) -> int:
        """Bytes copied without passing through this process (or shared outright); 0 where the system cannot."""
        copied = 0
        if hasattr(os, "copy_file_range"):
            with suppress(OSError):  # other file systems, old kernels; and a full disk, which plain writing will report
                while copied < size and (done := os.copy_file_range(source, self.fd, size - copied, copied, copied)):
                    copied += done
        return copied

    def _write_some(self, offset: int, view: memoryview) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.fd, view, offset)
        with self._position:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.write(self.fd, view)

    def _open_locked(self) -> int:
        extra = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        for _ in range(16):
            try:
                # A new file gets the umask's mode, and nobody else holds it open.
                fd = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | extra, 0o666)
            except FileExistsError:
                self._remove_stale(extra)
                continue
            if self._locked(fd) and _identity(self.partial) == _identity(fd):
                return fd
            os.close(fd)
        raise self._busy()

    def _remove_stale(self, extra: int) -> None:
        """Remove the partial file of a run that was killed; one that is still locked is another run's."""
        if not stat.S_ISREG(os.lstat(self.partial).st_mode):
            raise CheckpointError(f"{_where(self.partial)}: in the way, and not a partial file of ours; remove it.")
        try:
            fd = os.open(self.partial, os.O_RDWR | extra)
        except FileNotFoundError:
            return
        try:
            if not self._locked(fd):
                raise self._busy()
            if (identity := _identity(fd)) in self._inputs:
                raise CheckpointError(f"{_where(self.partial)}: is being read; rename it first.")
            if identity == _identity(self.partial):
                self.partial.unlink()
        finally:
            os.close(fd)

    def _locked(self, fd: int) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks
        return True

    def _busy(self) -> CheckpointError:
        return CheckpointError(f"{_where(self.path)}: another run is writing it right now; wait for it, or end it.")

    def _commit(self) -> None:
        self.check()  # it may have appeared meanwhile
        os.fsync(self.fd)
        if os.name == "nt":  # an open file cannot be renamed there
            self._close()
        self.partial.replace(self.path)
        self._entered = False
        self._close()
        _sync_folder(self.path.parent)

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def explained(self) -> Iterator[None]:
        """A full disk, a quota, missing rights: one line."""
        try:
            yield
        except OSError as error:
            reason = shown(error.strerror or str(error))
            raise CheckpointError(f"{_where(self.path)}: {reason}; nothing was saved.") from None


def _identity(path: StrPath | int) -> tuple[int, int] | None:
    """What stays the same under every name of a file: links of both kinds, case, relative paths."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a descriptor as well
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure, where the system has a way to."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # the file is complete and in its place
    finally:
        os.close(fd)


def _where(path: StrPath) -> str:
    return shown(os.fspath(path), 400)
