"""Keep names, links and listings inside their folder.

Scope: folders, of any format. Anyone may have chosen a name in a file or a link in a folder. Each is refused if it
leads out of the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown, shown_path

StrPath = str | os.PathLike[str]
_SKIPPED_FOLDERS = frozenset({".git", ".cache"})  # what git and the Hub's client keep for themselves


def check_plain(name: str, where: str) -> None:
    """A name out of a file has to be one plain name, on every system: no way up, no root, no drive, no stream."""
    if name in ("", ".", "..") or any(c in '/\\:*?"<>|' or ord(c) < 32 for c in name) or name[-1] in ". ":
        raise CheckpointError(f"{where} {shown(name)} is not a plain file name inside the folder; refused.")


def contained(folder: Path, name: str) -> Path:
    """`folder / name` of a plain name, whose links lead nowhere outside, except to the blobs of the same Hub cache."""
    path = folder / name
    root, target = folder.resolve(), path.resolve()
    if target.is_relative_to(root):
        return path
    # <repo>/snapshots/<revision>/... -> <repo>/blobs/<hash>, with no link on the way to hide behind; newer clients make
    # that a link too, to <cache>/blobs/<2 digits>/<hash>, a store that all repositories share and that is marked.
    for place in (root, *root.parents):
        if place.parent.name != "snapshots":
            continue
        repository, shared = place.parent.parent, target.parent.parent
        if target.parent == repository / "blobs":
            return path
        if shared == repository.parent / "blobs" and (shared / ".huggingface-shared-blobs").is_file():
            return path
    raise CheckpointError(f"{shown_path(path)}: a link that leads out of its folder, to {shown_path(target)}; refused.")


def other_files(folder: StrPath, taken: Iterable[StrPath]) -> tuple[Path, ...]:
    """Every regular file below `folder` that is not among `taken`, relative and sorted.

    Links to folders are refused rather than followed, links to files may not lead out of the folder (but into the
    Hub cache's `blobs`), pipes and sockets are left out, and so are the `.git` and `.cache` folders.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("config.json", "model.safetensors"):
    ...         _ = (Path(folder) / name).write_text("")
    ...     [str(path) for path in other_files(folder, ["model.safetensors"])]
    ['config.json']
    """
    known = {Path(path) for path in taken}
    return tuple(sorted(path for path in _walk(Path(folder), Path()) if path not in known))


def _walk(root: Path, inside: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(root / inside))
    except OSError as error:
        raise CheckpointError(f"{shown_path(root / inside)}: {error.strerror}.") from None
    for entry in entries:
        relative = inside / entry.name
        if entry.is_symlink():
            target = contained(root, relative.as_posix())
            if target.is_dir():
                raise CheckpointError(
                    f"{shown_path(target)}: a link to a folder, which is not followed; put a copy there."
                )
            if not target.exists():
                raise CheckpointError(
                    f"{shown_path(target)}: a link to a file that is missing; download the folder again."
                )
            if target.is_file():
                yield relative
        elif entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS:
                yield from _walk(root, relative)
        elif entry.is_file():
            yield relative


def plain_parts(name: str) -> Path | None:
    """A file name out of a repository's listing as a relative path; None where it would leave the folder.

    Examples
    --------
    >>> str(plain_parts("unet/config.json")), plain_parts("../x"), plain_parts("a//b")
    ('unet/config.json', None, None)
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts):
        return None
    return Path(*parts)
