"""Create hidden files that one run at a time owns, and let a run claim the folder or the file that it writes.

Scope: locks. Not here: what is written (see `checkpoint.atomic_file`). The kernel frees a lock when its process ends,
so a file that a killed run left behind is taken over. A file system without locks cannot tell such a file from one in
use: a claim is then refused, and the message names the file to remove.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .paths import StrPath

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which protects it as well
    fcntl = None  # type: ignore[assignment]

LOCK = ".rekernel-lock"
"""Name of the file in a folder that says who writes there; for a single file, the end of the name beside it."""
_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_HOLDER = 300  # bytes that say who holds a claim


def hidden_beside(path: Path, suffix: str) -> Path:
    """Return the path of a hidden file beside `path`, whose name says to which file it belongs.

    Examples
    --------
    >>> hidden_beside(Path("out/x.safetensors"), ".rekernel-lock").name
    '.x.safetensors.rekernel-lock'
    """
    name = f".{path.name}{suffix}"
    if len(os.fsencode(name)) > 255:
        name = f".{sha256(os.fsencode(path.name)).hexdigest()}{suffix}"
    return path.with_name(name) if path.name else path


@contextmanager
def claimed(target: Path, *, folder: bool) -> Iterator[None]:
    """Claim a target for the body of the `with` block, so that no other run writes there.

    Parameters
    ----------
    target : Path
        The folder, which exists, or the file.
    folder : bool
        Whether the whole folder is claimed.

    Raises
    ------
    CheckpointError
        If another run holds the claim; the message says which. Or if the lock file cannot be created.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with claimed(folder, folder=True), claimed(folder, folder=True):
    ...     pass
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: ...: another run (process ... on ... since ...) writes there now; wait for that
    run, or stop it.
    >>> list(folder.iterdir())
    []
    """
    path = target / LOCK if folder else hidden_beside(target, LOCK)
    if not path.parent.is_dir():
        raise CheckpointError(
            f"{shown_path(target)}: its folder {shown_path(path.parent)} does not exist; create it first."
        )
    with explained(target):
        fd = open_locked(path, lambda: _taken(target, path), in_use=lambda: _maybe_taken(target, path))
    try:
        with explained(target):
            os.write(fd, _holder())
        yield
    finally:
        remove_locked(path, fd)


def open_locked(
    path: Path, taken: Callable[[], Exception], *, in_use: Callable[[], Exception] | None = None,
    inputs: frozenset[tuple[int, int]] = frozenset(), mode: int = 0o666,
) -> int:  # fmt: skip
    """Create `path`, lock the new file and return its descriptor. A file that a killed run left there is removed.

    Parameters
    ----------
    taken : callable
        Returns the error for a file that another run has locked.
    in_use : callable, optional
        Returns the error for a file in the way on a file system without locks; None removes such a file.
    inputs : set of (device, inode)
        Files that are never removed.
    mode : int
        Permissions of the new file, of which the umask takes some away.
    """
    for _ in range(16):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, mode)  # no other process has it open
        except FileExistsError:
            _remove_stale(path, taken, in_use, inputs)
            continue
        if _flock(fd) is not False and identity(path) == identity(fd):
            return fd
        os.close(fd)
    raise taken()


def remove_locked(path: Path, fd: int) -> None:
    """Remove a file that `open_locked` created, and close its descriptor."""
    if os.name == "nt" and fd >= 0:
        os.close(fd)
    # On other systems, remove the file while the lock is held: after that it could be the file of another run.
    with suppress(OSError):
        if os.name == "nt" or identity(path) == identity(fd):
            path.unlink()
    if os.name != "nt":
        os.close(fd)


def identity(path: StrPath | int) -> tuple[int, int] | None:
    """Device and inode: equal for every name of one file (links, another case, relative paths)."""
    try:
        status = os.stat(path)  # noqa: PTH116 - `path` may be a descriptor
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError (a full disk, a quota, missing permissions) into a CheckpointError of one line."""
    try:
        yield
    except OSError as error:
        reason = shown(error.strerror or str(error))
        raise CheckpointError(f"{shown_path(path)}: {reason}; nothing was saved.") from None


def _remove_stale(
    path: Path,
    taken: Callable[[], Exception],
    in_use: Callable[[], Exception] | None,
    inputs: frozenset[tuple[int, int]],
) -> None:
    """Remove the file of a run that was killed. Raise if another run still holds its lock."""
    try:
        regular = stat.S_ISREG(os.lstat(path).st_mode)
        fd = os.open(path, os.O_RDWR | _FLAGS) if regular else -1
    except FileNotFoundError:  # the other run has just ended
        return
    if not regular:
        raise CheckpointError(f"{shown_path(path)}: is in the way: its name is that of a file of rekernel; remove it.")
    try:
        locked = _flock(fd)
        if locked is False:
            raise taken()
        if locked is None and fcntl is not None and in_use is not None:
            raise in_use()
        if identity(fd) in inputs:
            raise CheckpointError(f"{shown_path(path)}: is also an input file; rename it first.")
        if os.name != "nt" and identity(fd) == identity(path):
            path.unlink()
    finally:
        os.close(fd)
    if os.name == "nt":
        try:
            path.unlink()
        except PermissionError:
            raise taken() from None


def _flock(fd: int) -> bool | None:
    """Lock an open file: True if it is locked now, False if another run has locked it, None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _holder() -> bytes:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {platform.node() or 'this machine'} since {since}".encode()[:_HOLDER]


def _held_by(path: Path) -> str:
    """Who wrote the lock file: its text is not trusted, and empty if the other run has just created or removed it."""
    try:
        with path.open("rb") as file:
            text = file.read(_HOLDER).decode("utf-8", "replace")
    except OSError:
        text = ""
    return f" ({shown(text)})" if text else ""


def _taken(target: Path, path: Path) -> CheckpointError:
    return CheckpointError(
        f"{shown_path(target)}: another run{_held_by(path)} writes there now; wait for that run, or stop it."
    )


def _maybe_taken(target: Path, path: Path) -> CheckpointError:
    return CheckpointError(
        f"{shown_path(target)}: another run{_held_by(path)} writes there, or was killed there: this file system has no "
        f"locks that tell. If that run has ended, remove {shown_path(path)}."
    )
