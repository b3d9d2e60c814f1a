"""Show notes to users of Python, as warnings at the line that called rekernel.

Scope: the order and the place of warnings. Not here: what notes say (see `messages.note`).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from ..errors import Option, RekernelWarning
from ..escape import inert
from .note import Note

MOST = 8
"""As many notes of one call become warnings; another warning says how many more there are, and where."""

_OWN = str(Path(__file__).parents[1]) + os.sep
_CALLING = ("diffusers", "torch")
"""Packages that call hooks of rekernel: a hook's warning is shown at the line that called them."""


def tell(notes: Iterable[str], more: str = "the result has them all") -> None:
    """Warn of each note once, as a `RekernelWarning` at the line that called rekernel.

    A public function calls this once for each kind of note, so that one call says each note once. Where it writes
    files, it does so before, so that a filter which makes notes errors leaves no file.

    Parameters
    ----------
    notes : iterable of str or Note
    more : str
        Where the notes above the first eight are to be found.

    Examples
    --------
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     tell(["stride 1 is assumed", "stride 1 is assumed"])
    >>> [(each.category.__name__, str(each.message)) for each in caught]
    [('RekernelWarning', 'stride 1 is assumed')]
    """
    said = list(dict.fromkeys(notes))
    told: list[str] = said[:MOST]
    if len(said) > MOST:
        rest = len(said) - MOST
        told.append(f"and {rest} more note{'s' if rest > 1 else ''}: {more}")
    level = _callers_level()
    for note in told:
        warnings.warn(RekernelWarning(*map(_harmless, Note(note).parts)), stacklevel=level)


def _harmless(part: str | Option) -> str | Option:
    """A part without control characters, since a note may come from a file."""
    return Option(inert(part.python), inert(part.flag)) if isinstance(part, Option) else inert(part)


def _callers_level() -> int:
    """The `stacklevel` in `tell` of the first frame outside rekernel, and outside the packages that call its hooks."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_inside(frame):
        frame, level = frame.f_back, level + 1
    return level


def _is_inside(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return frame.f_code.co_filename.startswith(_OWN) or package in _CALLING
