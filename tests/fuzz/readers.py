"""How a file goes through every entry point that reads it; every error but ours, and every raw line, is a finding."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rekernel as rk

LONGEST = 20_000  # characters of a message


def readable(text: str) -> None:
    """Fail for a message that a terminal would obey, or that no file can hold."""
    text.encode("utf-8")
    assert text.isprintable(), f"a message with control characters: {text[:300]!r}"
    assert len(text) <= LONGEST, f"a message of {len(text)} characters"


def tried(call: Callable[[], Any]) -> Any:
    """The result of a call, or None where it refuses in one printable line; the same holds for its notes."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            result = call()
        except rk.RekernelError as error:
            readable(str(error))
            readable(error.on_command_line())
            result = None
    for note in notes:
        if isinstance(note.message, rk.RekernelWarning):
            readable(str(note.message))
            readable(note.message.on_command_line())
    return result


def read_everywhere(path: Path, target: Path, **options: Any) -> None:
    """Inspect, plan, estimate and convert a source, and show what was found."""
    shown(tried(lambda: rk.inspect(path, **options)))
    plan = tried(lambda: rk.plan_source(path, 2, **options))
    shown(plan)
    tried(lambda: rk.estimate(path, 2, **options))
    try:
        tried(lambda: rk.convert(path, target, scale=2, force=True, **options))
    finally:
        cleared(target)


def shown(result: Any) -> None:
    """Show a result in every way that it has."""
    if result is None:
        return
    results = list(result.values()) if isinstance(result, dict) else [result]
    for each in results:
        for line in tried(lambda each=each: str(each)).splitlines():
            readable(line)
        repr(each)
        if isinstance(each, rk.Plan):
            assert rk.Plan.from_json(each.to_json()) == each
            each.to_json().encode("utf-8")


def cleared(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
