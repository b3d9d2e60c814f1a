"""Write files that appear whole or not at all: a hidden partial file is synced, then renamed to its destination.

Scope: bytes and the file system. Not here: what the bytes mean (see `checkpoint.writer`).
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from pickle import PickleBuffer
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import FORCE, CheckpointError, RekernelError
from ..escape import shown, shown_path
from ..text import byte_size
from .file_kind import open_regular
from .paths import StrPath

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which protects it as well
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing_extensions import Buffer


def check_free_space(folder: StrPath, needed_bytes: int) -> None:
    """Refuse to begin what cannot be finished: `folder` has to have `needed_bytes` free.

    Examples
    --------
    >>> check_free_space(".", 1)
    >>> check_free_space(".", 2**62)
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: .: 4.6 EB needed, ... free: make room, or write to another disk.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise CheckpointError(
            f"{shown_path(folder)}: {byte_size(needed_bytes)} needed, {byte_size(free)} free: "
            "make room, or write to another disk."
        )


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
    with AtomicFile(path, force=force, inputs=inputs) as file:
        file.write_at(0, PickleBuffer(data).raw())


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Raise for the first of several destinations that is there, before any of them is written; a link counts.

    Examples
    --------
    >>> refuse_existing([Path("no/such/file"), Path("/")], force=True)
    """
    existing = None if force else next((path for path in paths if os.path.lexists(path)), None)
    if existing is not None:
        raise RekernelError(f"{shown_path(existing)}: exists already; pass ", FORCE, " to replace it")


def copy_atomic(source: StrPath, path: StrPath, *, force: bool = False, inputs: Iterable[StrPath] = ()) -> None:
    """Copy a regular file of any size whole or not at all, under the rules of `StreamingWriter`."""
    with AtomicFile(path, force=force, inputs=[source, *inputs]) as file:
        fd = open_regular(source)
        try:
            size = os.fstat(fd).st_size
            check_free_space(file.path.parent, size)
            file.copy_from(fd, size, shown_path(source))
        finally:
            os.close(fd)


class AtomicFile:
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
        where, folder = shown_path(self.path), self.path.parent
        if not folder.is_dir():
            raise CheckpointError(f"{where}: its folder {shown_path(folder)} does not exist; create it first.")
        if self.path.is_dir() or not self.path.name:
            raise CheckpointError(f"{where}: is a folder; name a file in it.")
        if _identity(self.path) in self._inputs:
            raise CheckpointError(f"{where}: is the very file that is read; give the result another name.")
        if os.path.lexists(self.path):
            if not self.force:
                raise CheckpointError(f"{where}: exists already; pass ", FORCE, " to replace it.")
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
            raise CheckpointError(f"{shown_path(self.path)}: not open for writing; use it inside its `with` block.")
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
            raise CheckpointError(f"{shown_path(self.partial)}: in the way, and not a partial file of ours; remove it.")
        try:
            fd = os.open(self.partial, os.O_RDWR | extra)
        except FileNotFoundError:
            return
        try:
            if not self._locked(fd):
                raise self._busy()
            if (identity := _identity(fd)) in self._inputs:
                raise CheckpointError(f"{shown_path(self.partial)}: is being read; rename it first.")
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
        return CheckpointError(f"{shown_path(self.path)}: another run is writing it right now; wait for it, or end it.")

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
            raise CheckpointError(f"{shown_path(self.path)}: {reason}; nothing was saved.") from None


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
