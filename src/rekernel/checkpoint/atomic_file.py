"""Write files atomically: sync a hidden partial file, then rename it to the destination.

Scope: bytes and the file system. Not here: what the bytes mean (see `checkpoint.writer`).
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from pickle import PickleBuffer
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import FORCE, BusyError, CheckpointError, RekernelError
from ..escape import shown_path
from ..text import byte_size
from .early_sync import EarlySync
from .file_kind import open_regular
from .locked_file import explained, hidden_beside, identity, open_locked, remove_locked
from .paths import StrPath

if TYPE_CHECKING:
    from typing_extensions import Buffer

PARTIAL = ".rekernel-partial"
"""End of the name of a partial file."""


def check_free_space(folder: StrPath, needed_bytes: int) -> None:
    """Raise if the disk of `folder` has less than `needed_bytes` free, before anything is written.

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


def write_atomic(
    path: StrPath, data: Buffer, *, force: bool = False, inputs: Iterable[StrPath] = (), like: StrPath | None = None
) -> None:
    """Write a small file atomically. `force`, `inputs` and `like` are as for `StreamingWriter`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder, "index.json"), b"{}")
    ...     Path(folder, "index.json").read_bytes()
    b'{}'
    """
    with AtomicFile(path, force=force, inputs=inputs, like=like) as file:
        file.write_at(0, PickleBuffer(data).raw())


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Raise for the first destination that exists already, unless `force`. A link counts, even a broken one.

    Examples
    --------
    >>> refuse_existing([Path("no/such/file"), Path("/")], force=True)
    """
    existing = None if force else next((path for path in paths if os.path.lexists(path)), None)
    if existing is not None:
        raise RekernelError(f"{shown_path(existing)}: exists already; pass ", FORCE, " to replace it")


def copy_atomic(source: StrPath, path: StrPath, *, force: bool = False, inputs: Iterable[StrPath] = ()) -> None:
    """Copy a regular file of any size atomically. `force` and `inputs` are as for `StreamingWriter`."""
    with AtomicFile(path, force=force, inputs=[source, *inputs], like=source) as file:
        fd = open_regular(source)
        try:
            size = os.fstat(fd).st_size
            check_free_space(file.path.parent, size)
            file.copy_from(fd, size, shown_path(source))
        finally:
            os.close(fd)


def remove_partial(path: Path) -> bool:
    """Remove what a killed process has written of a file. False if another process is writing the file now.

    Examples
    --------
    >>> remove_partial(Path("no/such/file"))
    True
    """
    partial = hidden_beside(path, PARTIAL)
    if os.path.lexists(partial):
        try:
            remove_locked(partial, open_locked(partial, lambda: BusyError("")))
        except BusyError:
            return False
        except (RekernelError, OSError):
            pass
    return True


class AtomicFile:
    """A partial file that is renamed to `path` on a clean exit, and removed on an exception.

    Every file that rekernel writes is renamed into place here. It gets the permissions that `cp` would give: those of
    the file that it replaces; else those of `like` without the bits of the umask; else what the umask leaves.
    """

    def __init__(self, path: StrPath, *, force: bool, inputs: Iterable[StrPath], like: StrPath | None = None) -> None:
        self.path = Path(path)
        self.force = force
        self._like, self._mode = like, 0o666
        self._inputs = frozenset(found for source in inputs if (found := identity(source)) is not None)
        self.partial = hidden_beside(self.path, PARTIAL)
        self.fd, self._entered = -1, False  # entered: this object owns a partial file
        self._position = threading.Lock()
        self._early: EarlySync | None = None

    def check(self) -> None:
        """Raise if the destination may not be written."""
        with self.explained():
            self._check()

    def _check(self) -> None:
        where, folder = shown_path(self.path), self.path.parent
        if not folder.is_dir():
            raise CheckpointError(f"{where}: its folder {shown_path(folder)} does not exist; create it first.")
        if self.path.is_dir() or not self.path.name:
            raise CheckpointError(f"{where}: is a folder; name a file in it.")
        if identity(self.path) in self._inputs:
            raise CheckpointError(f"{where}: is also an input file; give the result another name.")
        if os.path.lexists(self.path):
            if not self.force:
                raise CheckpointError(f"{where}: exists already; pass ", FORCE, " to replace it.")
            if self.path.exists() and not self.path.is_file():
                raise CheckpointError(f"{where}: exists and is not a regular file; name a regular file.")

    def __enter__(self) -> Self:
        self.check()
        with self.explained():
            replaced = _permissions(self.path)
            like = None if self._like is None else _permissions(self._like)
            wanted = replaced if replaced is not None else 0o666 if like is None else like
            # The partial file can be opened by the next run, and was never open to others than the result is.
            self.fd = open_locked(self.partial, self._busy, inputs=self._inputs, mode=wanted | 0o600)
            self._mode = wanted if replaced is not None else wanted & stat.S_IMODE(os.fstat(self.fd).st_mode)
        self._entered = True
        self._early = EarlySync(self.fd)
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
        """Remove the partial file. The destination is not changed."""
        if not self._entered:
            return
        self._entered = False
        if self._early is not None:
            with suppress(OSError):  # the file goes away
                self._early.wait()
        remove_locked(self.partial, self.fd)
        self.fd = -1

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
                self.wrote(done)

    def wrote(self, nbytes: int) -> None:
        """Say that `nbytes` were written through the descriptor, so that the disk starts with these."""
        if self._early is not None:
            self._early.wrote(nbytes)

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
        """Let the kernel copy (or share) the bytes, and return their number: 0 on a system that cannot."""
        copied = 0
        if hasattr(os, "copy_file_range"):
            with suppress(OSError):  # another file system, an old kernel, or a full disk, which `write_at` will report
                while copied < size and (done := os.copy_file_range(source, self.fd, size - copied, copied, copied)):
                    copied += done
                    self.wrote(done)
        return copied

    def _write_some(self, offset: int, view: memoryview) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.fd, view, offset)
        with self._position:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.write(self.fd, view)

    def _busy(self) -> BusyError:
        return BusyError(
            f"{shown_path(self.path)}: another run is writing this file now; wait for that run, or stop it."
        )

    def _commit(self) -> None:
        self.check()  # the destination may have appeared since
        if self._early is not None:
            self._early.wait()
        os.fsync(self.fd)
        if identity(self.partial) != identity(self.fd):  # on a file system without locks
            raise self._busy()
        if os.name == "nt":  # an open file cannot be renamed there
            self._close()
        elif stat.S_IMODE(os.fstat(self.fd).st_mode) != self._mode:
            os.fchmod(self.fd, self._mode)
        self.partial.replace(self.path)
        self._entered = False
        self._close()
        sync_folder(self.path.parent)

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def explained(self) -> AbstractContextManager[None]:
        """Turn an OSError (a full disk, a quota, missing permissions) into a CheckpointError of one line."""
        return explained(self.path)


def _permissions(path: StrPath) -> int | None:
    """Who may read, write and execute a file; None where there is not one."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode) & 0o777  # noqa: PTH116
    except OSError:
        return None


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, on systems that can sync a folder."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # the file is complete and renamed already
    finally:
        os.close(fd)
