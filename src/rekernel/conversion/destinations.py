"""Decide where a conversion may write, and which files beside the weights it copies.

Scope: paths and names of files. Not here: writing (see `conversion.run`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..checkpoint.discover import OTHER_WEIGHTS
from ..checkpoint.paths import other_files
from ..checkpoint.tensor_source import TensorSource
from ..errors import FORCE, RESUME, RekernelError
from ..escape import shown, shown_path
from ..sources.store_address import store_address
from ..sources.store_client import StoreError, shown_address
from ..text import few


def file_target(source: TensorSource, target: Path, into_folder: bool) -> tuple[Path, str]:
    """Return the folder and the name of a single converted file."""
    _refuse_elsewhere(target)
    name = source.path.with_suffix(".safetensors").name
    if into_folder or target.is_dir():
        return target, name
    if target.suffix != ".safetensors":
        raise RekernelError(
            f"{shown_path(target)}: the name of a converted file ends in .safetensors; pass another name, or a folder"
        )
    return target.parent, target.name


def folder_target(target: Path, source: Path, *, replace: bool, resumes: bool = False) -> Path:
    """Check and return the destination folder. It is not the folder of the source, inside it, or around it.

    Parameters
    ----------
    replace : bool
        Whether the caller allows a folder that is not empty, to replace its files or to resume. Hidden files, such as
        those of git, may always be there.
    resumes : bool
        Whether the caller can resume an interrupted conversion.
    """
    where = shown_path(target)
    _refuse_elsewhere(target)
    if target.suffix == ".safetensors" or (target.exists() and not target.is_dir()):
        raise RekernelError(f"{where}: the result is a folder; pass the name of a folder")
    root = source if source.is_dir() else source.parent
    if target.resolve() == root.resolve():
        raise RekernelError(
            f"{where}: is the folder of the source, which a conversion never changes; pass another folder"
        )
    if source.is_dir() and target.resolve().is_relative_to(root.resolve()):
        raise RekernelError(f"{where}: lies inside the source; pass a folder outside the source")
    if source.is_dir() and root.resolve().is_relative_to(target.resolve()):
        raise RekernelError(f"{where}: holds the source, {shown_path(source)}; pass a new folder in it or elsewhere")
    held = sorted(path.name for path in target.iterdir() if path.name[0] != ".") if target.is_dir() else []
    if held and not replace:
        listed = few([shown(name) for name in held], 3)
        resume = (", or ", RESUME, " to resume an interrupted conversion") if resumes else ()
        raise RekernelError(
            f"{where}: exists already and is not empty ({listed}); pass a new folder, or ", FORCE,
            " to write among its files", *resume,
        )  # fmt: skip
    if held:
        other_files(target, [])  # raises for a link that leads out, before anything is written
    return target


def _refuse_elsewhere(target: Path) -> None:
    """Raise if the destination is an address on the Hub or the web, or a folder on the way to it is a file."""
    web = re.match("(hf|https?):", str(target), re.IGNORECASE)
    if web:
        where = re.sub(":/+", "://", shown_path(target), count=1)
        publish = ", and publish it with `rekernel push`" if web[1].lower() == "hf" else ""
        raise RekernelError(
            f"{where}: results are written to this disk or to a store; pass a path, or an address such as "
            f"s3://bucket/folder{publish}"
        )
    if (stored := store_address(target)) is not None:
        raise StoreError(
            f"{shown_address(stored)}: this is written to the disk; pass a local path, and copy the result."
        )
    above = next((path for path in target.parents if path.exists()), None)
    if above is not None and not above.is_dir():
        raise RekernelError(
            f"{shown_path(target)}: {shown_path(above)} is a file, so nothing can be written in it; pass another "
            f"destination"
        )


def beside(opened: TensorSource, source: Path, folder: Path) -> tuple[list[tuple[Path, Path]], Sequence[Path]]:
    """List the files to copy as (source, target), and the weights in other formats that are not copied."""
    taken = [path.relative_to(source) for path in opened.files if path.is_relative_to(source)]
    others, skipped = split_weights(list(other_files(source, taken)), [Path()])
    return [(source / f, folder / f) for f in others], skipped


def split_weights(files: list[Path], folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split files into those to copy, and other weights directly in `folders`, which would hold the old values."""
    stale = [f for f in files if f.name.endswith(OTHER_WEIGHTS) and f.parent in folders]
    return [f for f in files if f not in stale], stale


@contextmanager
def making_folders(wanted: Mapping[Path, Path | None]) -> Iterator[None]:
    """Make the folders. If the body of the `with` block fails, remove those that are empty.

    Parameters
    ----------
    wanted : {folder: pattern}
        A new folder gets the permissions of its pattern without the bits of the umask, as `cp -r` does.
    """
    made: list[Path] = []
    try:
        for folder, pattern in wanted.items():
            missing = [p for p in (folder, *folder.parents) if not p.exists()]
            for path in reversed(missing[1:]):
                path.mkdir(exist_ok=True)
            mode = 0o777 if pattern is None else pattern.stat().st_mode & 0o777 | 0o700
            folder.mkdir(mode, exist_ok=True)
            made += reversed(missing)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):  # not empty: the folder holds finished files to resume from
                folder.rmdir()
        raise


def refuse_inputs(paths: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Raise if a file to replace or remove is also an input, under any name or link."""
    read = {(status.st_dev, status.st_ino) for path in inputs if (status := path.stat())}
    for path in paths:
        if path.exists() and ((status := path.stat()).st_dev, status.st_ino) in read:
            raise RekernelError(f"{shown_path(path)}: is also an input file; give the result another name.")
