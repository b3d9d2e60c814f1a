"""Other people's code, run for the user: its refusals become one line that names what was run; our bugs still show.

Knows tracebacks; nothing of models. Whose error it is, the innermost frame says that belongs to a project: one of
rekernel's is ours, and one of diffusers, of transformers or of the user's file is theirs.
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
_TOOLS = {"torch", "numpy", *sys.stdlib_module_names}  # they raise on behalf of whoever called


@contextmanager
def running(what: str, hint: str = "") -> Iterator[None]:
    """Run code of others.

    Parameters
    ----------
    what : as the message begins, harmless text: 'UNet2DModel on 33x33 pixels'
    hint : how it may end

    Raises
    ------
    RekernelError
        For what that code raises.
    MemoryError
        Where it asked for more than there is.
    """
    try:
        yield
    except (RekernelError, OSError, MemoryError):  # these have lines of their own
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "allocate" in str(error):  # torch has no class for it on a CPU
            raise MemoryError(what) from None
        place = _theirs(error)
        if place is None:
            raise
        said = next(filter(None, map(str.strip, str(error).splitlines())), "")
        reason = f"{type(error).__name__}{': ' if said else ''}{shown(said, 300) if said else ''}"
        raise RekernelError(f"{what}: {reason} ({shown(place, 100)}){hint}") from None


def _theirs(error: BaseException) -> str | None:
    """File and line, unless the error is ours."""
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
    """Run a .py file as a module of its own, which no other import will find."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
