"""Run code that is not part of rekernel: an exception becomes one line, and a bug in rekernel keeps its traceback.

Scope: tracebacks. Not here: models. The innermost frame that belongs to a project decides who is responsible for an
exception: rekernel, or other code, such as diffusers, transformers or the user's file.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from rekernel.errors import RekernelError
from rekernel.escape import shown

_OURS = {"rekernel", "rekernel_cli"}
_TOOLS = {"torch", "numpy", *sys.stdlib_module_names}  # these raise because of an error in the calling code


@contextmanager
def running(what: str, hint: str = "") -> Iterator[None]:
    """Run code that is not part of rekernel, and shorten exceptions of this code to one line.

    Parameters
    ----------
    what : str
        Beginning of the message, escaped already: 'UNet2DModel on 33x33 pixels'.
    hint : str
        End of the message.

    Raises
    ------
    RekernelError
        If the code raises an exception.
    MemoryError
        If the code needs more memory than is available.
    """
    try:
        yield
    except (RekernelError, OSError, MemoryError):  # these already have a message of one line
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "allocate" in str(error):  # on a CPU, torch has no class for this error
            raise MemoryError(what) from None
        place = _theirs(error)
        if place is None:
            raise
        said = next(filter(None, map(str.strip, str(error).splitlines())), "")
        reason = f"{type(error).__name__}{': ' if said else ''}{shown(said, 300) if said else ''}"
        raise RekernelError(f"{what}: {reason} ({shown(place, 100)}){hint}") from None


def _theirs(error: BaseException) -> str | None:
    """Return file and line of the error, or None if rekernel raised the error."""
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        project = _module(frame).partition(".")[0]
        if project in _OURS:
            return None
        if project not in _TOOLS:
            return f"{frame.f_code.co_filename.replace(chr(92), '/').rpartition('/')[2]}, line {line}"
    return None


def _module(frame: FrameType) -> str:
    name: Any = frame.f_globals.get("__name__", "")
    return name if isinstance(name, str) else ""


def import_file(path: Path) -> ModuleType:
    """Run a .py file as a separate module that no other import finds."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
