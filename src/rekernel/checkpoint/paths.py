"""Keep names, links and listings inside their folder.

Scope: names and links in any folder. Anyone may have chosen them, so a name or link that leads out of the folder is
refused. Not here: formats (see `checkpoint.file_kind`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown, shown_path
from ..text import near

StrPath = str | os.PathLike[str]
_SKIPPED_FOLDERS = frozenset({".git", ".cache"})  # private folders of git and of the Hub's client


def check_plain(name: str, where: str) -> None:
    """Raise if a name from a file is not a plain file name on every system (no separator, drive or stream)."""
    if name in ("", ".", "..") or any(c in '/\\:*?"<>|' or ord(c) < 32 for c in name) or name[-1] in ". ":
        raise CheckpointError(f"{where} {shown(name)} is not a plain file name inside the folder; refused.")


def missing(path: Path) -> CheckpointError:
    """The error for a path that leads nowhere: it names a link's target, or files beside it that are called alike.

    Examples
    --------
    >>> print(missing(Path("no/such/unet.safetensors")))
    no/such/unet.safetensors: no such file or folder.
    """
    where = shown_path(path)
    if path.is_symlink():
        return CheckpointError(
            f"{where}: is a link to {shown_path(path.readlink())}, which does not exist; link it again."
        )
    others: list[Path] = []
    with suppress(OSError, ValueError):
        others = sorted(path.parent.iterdir())
    alike = {other.stem: other.name for other in others if other.suffix == path.suffix}
    names = {other.stem: other.name for other in others}
    found = [alike[stem] for stem in near(path.stem, alike)] or [names[stem] for stem in near(path.stem, names)]
    meant = f"; did you mean {shown_path(path.parent / found[0])}?" if found else "."
    return CheckpointError(f"{where}: no such file or folder{meant}")


def contained(folder: Path, name: str) -> Path:
    """Return `folder / name`; raise if a link leads out of the folder, unless to the blobs of the same Hub cache."""
    path = folder / name
    root, target = folder.resolve(), path.resolve()
    if target.is_relative_to(root):
        return path
    # The Hub's cache links <repo>/snapshots/<revision>/... to <repo>/blobs/<hash>. `resolve` follows every link on the
    # way. In newer clients the blob is a link too, to <cache>/blobs/<2 digits>/<hash>: a store that all repositories
    # share, and that a marker file identifies.
    for place in (root, *root.parents):
        if place.parent.name != "snapshots":
            continue
        repository, shared = place.parent.parent, target.parent.parent
        if target.parent == repository / "blobs":
            return path
        if shared == repository.parent / "blobs" and (shared / ".huggingface-shared-blobs").is_file():
            return path
    raise CheckpointError(
        f"{shown_path(path)}: is a link that leads out of its folder, to {shown_path(target)}; refused."
    )


def other_files(folder: StrPath, taken: Iterable[StrPath]) -> tuple[Path, ...]:
    """List the regular files below `folder` that are not among `taken`, as sorted relative paths.

    A link to a folder is an error. So is a link to a file outside the folder, except in the `blobs` of the Hub cache.
    Pipes, sockets, the folders `.git` and `.cache`, and what a killed conversion left there are left out.

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
        if is_own(entry.name):
            continue
        relative = inside / entry.name
        if entry.is_symlink():
            target = contained(root, relative.as_posix())
            if target.is_dir():
                raise CheckpointError(
                    f"{shown_path(target)}: is a link to a folder, which rekernel does not follow; "
                    "replace the link with a copy of the folder."
                )
            if not target.exists():
                raise CheckpointError(
                    f"{shown_path(target)}: is a link to a file that is missing; download the folder again."
                )
            if target.is_file():
                yield relative
        elif entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS:
                yield from _walk(root, relative)
        elif entry.is_file():
            yield relative


def is_own(name: str) -> bool:
    """Whether a file or folder holds the state of a conversion, such as a partial file, a lock or a journal.

    Examples
    --------
    >>> is_own(".unet.safetensors.rekernel-partial"), is_own(".rekernel-journal.json"), is_own("config.json")
    (True, True, False)
    """
    return name.startswith(".") and ".rekernel-" in name


def plain_parts(name: str) -> Path | None:
    r"""Turn a file name of a repository into a relative path; None if it would lead out of the folder.

    A name that no file can have, such as one with half a surrogate pair, gives None too.

    Examples
    --------
    >>> str(plain_parts("unet/config.json")), plain_parts("../x"), plain_parts("a//b"), plain_parts("\ud800")
    ('unet/config.json', None, None, None)
    """
    parts = name.split("/")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return None
    if any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts):
        return None
    return Path(*parts)
