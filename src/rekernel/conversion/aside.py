"""Write a folder aside and put it in the place of the old one at the end; until then the old one stays whole.

Scope: the place of a folder. Not here: what is written (see `conversion.run`).

The new folder lies beside the old one, and the system exchanges the two in one step, or renames both where it has no
such step. In four cases it lies inside the old folder, whose files are then replaced one by one at the end: the old
folder holds files that the conversion does not write; it is the current folder or around it; it is a mount, or its
parent may not be written; on Windows. A run that is killed leaves the new folder, which `resume` continues from and
every other run into the same target removes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.atomic_file import PARTIAL, sync_folder
from ..checkpoint.locked_file import LOCK, claimed, explained, hidden_beside
from .journal import NAME

NEW, OLD = ".rekernel-new", ".rekernel-old"
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux


@dataclass(frozen=True)
class Place:
    """Where the folder `root` is written.

    stage : the folder that is written, beside or in `root`
    inside : whether it is in `root`
    """

    root: Path
    stage: Path
    inside: bool

    def to_stage(self, path: Path) -> Path:
        """The place of a file of `root` until the end."""
        return self.stage / path.relative_to(self.root)

    def to_root(self, path: Path) -> Path:
        """The place of a file of `stage` at the end."""
        return self.root / path.relative_to(self.stage)


def unfinished(root: Path) -> Path | None:
    """The folder in which a killed or failed run has left files to continue from, or None.

    Examples
    --------
    >>> unfinished(Path("no/such/folder")) is None
    True
    """
    return next((place for place in (*_stages(root), root) if (place / NAME).is_file()), None)


def restore(root: Path) -> None:
    """Put an old folder back that a killed run had taken away, on a system without exchange.

    Raises
    ------
    CheckpointError
        Where the other run is still writing.
    """
    old = _beside(root, OLD)
    if os.path.lexists(root) or not old.is_dir():
        return
    with claimed(old, folder=True), explained(root):
        old.rename(root)
    (root / LOCK).unlink(missing_ok=True)


def place_for(root: Path, wanted: Sequence[Path], *, resume: bool) -> Place:
    """Make the folder to write, or find the one that an interrupted run has left. The caller holds the claim.

    Parameters
    ----------
    root : Path
        The folder that is replaced.
    wanted : sequence of path
        Files of `root` that are written or removed.
    resume : bool
        Whether to keep what an interrupted run has finished.
    """
    beside, inner = _stages(root)
    with explained(root):
        for stage in (beside, inner):
            if resume and (stage / NAME).is_file():
                return Place(root, stage, stage == inner)
        clean(root)
        if _may_be_swapped(root, wanted):
            with suppress(OSError):
                _make_like(beside, root)
                return Place(root, beside, False)
        _make_like(inner, root)
        return Place(root, inner, True)


def clean(root: Path) -> None:
    """Remove what killed runs have left beside and in a folder. The caller holds the claim."""
    for left in (*_stages(root), _beside(root, OLD)):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)


@contextmanager
def kept_if_useful(place: Place) -> Iterator[None]:
    """Remove the new folder if the body of the `with` block fails before it has finished a file to resume from."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if not any(path.suffix == ".safetensors" for path in place.stage.rglob("*")):
                shutil.rmtree(place.stage)
        raise


def finish(place: Place, marks: Sequence[Path], stale: Sequence[Path], wanted: Sequence[Path]) -> None:
    """Put the new folder in the place of the old one.

    Parameters
    ----------
    marks : sequence of path
        Files of `root` that make it valid: removed first and replaced last, where files are replaced one by one.
    stale : sequence of path
        Files of `root` to remove.
    wanted : sequence of path
        As for `place_for`.
    """
    with explained(place.root):
        _take_modes(place)
        if place.inside or not _may_be_swapped(place.root, wanted) or not _share_claim(place):
            _replace_files(place, marks, stale)
        else:
            _swap(place)


def _share_claim(place: Place) -> bool:
    """Give the new folder the lock file of the old one, so that the claim is held before, while and after."""
    try:
        os.link(place.root / LOCK, place.stage / LOCK)
    except OSError:  # a file system without links
        return False
    return True


def _swap(place: Place) -> None:
    real = place.root.resolve()
    old = _beside(real, OLD)
    if _exchange(place.stage, real):
        place.stage.rename(old)
    else:
        real.rename(old)
        try:
            place.stage.rename(real)
        except OSError:
            old.rename(real)
            raise
    sync_folder(real.parent)
    shutil.rmtree(old)


def _replace_files(place: Place, marks: Sequence[Path], stale: Sequence[Path]) -> None:
    for path in (*marks, *stale):
        path.unlink(missing_ok=True)
    files = [path for path in sorted(place.stage.rglob("*")) if not path.is_dir()]
    last = set(marks)
    for path in sorted(files, key=lambda path: place.to_root(path) in last):
        target = place.to_root(path)
        if not target.parent.is_dir():
            _make_like(target.parent, path.parent)
        hidden_beside(target, PARTIAL).unlink(missing_ok=True)
        path.replace(target)
    sync_folder(place.root)
    shutil.rmtree(place.stage)


def _may_be_swapped(root: Path, wanted: Sequence[Path]) -> bool:
    """Whether the folder holds nothing but what is written or removed, and can be renamed."""
    real = root.resolve()
    known = {path.relative_to(root) for path in wanted}
    folders = {parent for path in known for parent in path.parents}
    present = {path.relative_to(root) for path in root.rglob("*") if not path.name.endswith((LOCK, PARTIAL))}
    if os.name == "nt" or present - known - folders or any((root / path).is_symlink() for path in present & folders):
        return False
    current = Path.cwd()
    if real.is_relative_to(current.root) and current.is_relative_to(real):
        return False
    return not os.path.ismount(real) and os.access(real.parent, os.W_OK | os.X_OK)


def _take_modes(place: Place) -> None:
    """Give each new file the permissions of the file that it replaces, and each folder those of the old folder."""
    for new in place.stage.rglob("*"):
        old = place.to_root(new)
        if old.is_symlink() or new.is_symlink() or not old.exists() or old.is_dir() != new.is_dir():
            continue
        _alike(old, new)


def _make_like(folder: Path, pattern: Path) -> None:
    folder.mkdir(mode=0o700)
    _alike(pattern, folder)


def _alike(old: Path, new: Path) -> None:
    """Give `new` the owner, where that is permitted, and the permissions of `old`."""
    status = old.stat()
    if hasattr(os, "chown") and (status.st_uid, status.st_gid) != (new.stat().st_uid, new.stat().st_gid):
        with suppress(OSError):
            os.chown(new, status.st_uid, status.st_gid)
    new.chmod(stat.S_IMODE(status.st_mode) & 0o777)


def _stages(root: Path) -> tuple[Path, Path]:
    return _beside(root, NEW), root / NEW


def _beside(root: Path, suffix: str) -> Path:
    return hidden_beside(root.resolve(), suffix)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders in one step; False where the system or its file system cannot."""
    rename: Callable[..., int] | None = None
    if sys.platform == "linux":
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here = -100  # AT_FDCWD: relative to the current folder
    return rename is not None and rename(here, os.fsencode(a), here, os.fsencode(b), _EXCHANGE) == 0


__all__ = ["Place", "clean", "finish", "kept_if_useful", "place_for", "restore", "unfinished"]
