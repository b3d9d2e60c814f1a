"""Find the line of other people's code that raised an error.

Scope: tracebacks. Not here: messages (see `torch.running`). The innermost frame that belongs to a project decides who
is responsible for an exception: rekernel, or other code, such as diffusers, transformers or the user's file.
"""

from __future__ import annotations

import sys
import traceback
from types import FrameType
from typing import Any

_OURS = {"rekernel", "rekernel_cli"}
_TOOLS = {"torch", "numpy", *sys.stdlib_module_names}  # these raise because of the calling code


def place_of(error: BaseException) -> str | None:
    """Return file and line of an error that other code raised, or None if rekernel raised the error.

    The text is not escaped.

    Examples
    --------
    >>> theirs = compile("1 / 0", "folder/theirs.py", "exec")
    >>> try:
    ...     exec(theirs, {"__name__": "theirs"})
    ... except ZeroDivisionError as error:
    ...     place_of(error)
    'theirs.py, line 1'
    """
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
