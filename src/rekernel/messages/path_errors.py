"""Turn what the system says of a path into a `CheckpointError` of one line, around the public functions.

Scope: names of files and folders, and permissions. Not here: contents of files, the command line.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ..errors import CheckpointError
from ..escape import shown, shown_path

P = ParamSpec("P")
R = TypeVar("R")

_UNREACHABLE = (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)


def explains_paths(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function whose arguments `names` are paths: it raises CheckpointError instead of OSError for paths.

    Examples
    --------
    >>> @explains_paths("path")
    ... def read(path):
    ...     return open(path).read()
    >>> read("no/such/file")
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: no/such/file: No such file or directory.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def explained(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind_partial(*args, **kwargs).arguments
            except TypeError:  # the function itself says it better
                given = {}
            for name in names:
                check_reachable(given.get(name), name)
            try:
                return function(*args, **kwargs)
            except OSError as error:
                if error.filename is None or isinstance(error.filename, int):  # not about a path
                    raise
                raise _explained(error.filename, error) from error

        return explained

    return decorate


def check_reachable(value: Any, name: str) -> None:
    """Raise for a path that no file can have, or that the system does not let through; other values pass.

    Examples
    --------
    >>> check_reachable("no/such/file", "source")
    >>> check_reachable("a\\0b", "source")
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: source=a\\x00b has a zero byte, which no path has; pass another name
    """
    if not isinstance(value, str | os.PathLike):
        return
    text = os.fspath(value)
    if not isinstance(text, str) or "://" in text:
        return
    if "\0" in text:
        raise CheckpointError(f"{name}={shown(text, 80)} has a zero byte, which no path has; pass another name")
    try:
        os.lstat(text)
        os.stat(text)  # noqa: PTH116 - of a link what it leads to
    except OSError as error:
        if error.errno in _UNREACHABLE:
            raise _explained(text, error) from None
    except UnicodeEncodeError:
        raise CheckpointError(
            f"{name}={shown(text, 80)} has a character that no path on this system has; pass another name"
        ) from None


def _explained(path: Any, error: OSError) -> CheckpointError:
    where = Path(os.fsdecode(path))
    said = shown(error.strerror or str(error), 200)
    if error.errno == errno.EACCES and (closed := _closed(where)) is not None:
        said += f": the folder {shown_path(closed)} may not be searched; ask for that right (chmod +x)"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        said += "; a folder is needed there, so pass another path"
    return CheckpointError(f"{shown_path(where)}: {said}.")


def _closed(path: Path) -> Path | None:
    """The outermost folder on the way to a path that may not be searched."""
    effective = os.access in os.supports_effective_ids
    around = reversed([path, *path.absolute().parents])
    return next((p for p in around if p.is_dir() and not os.access(p, os.X_OK, effective_ids=effective)), None)
