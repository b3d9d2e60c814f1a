"""Where output goes: results on stdout, progress and notes on stderr; bytes for people; JSON for programs.

Knows rich; nothing of checkpoints. Everything printed is literal text: no markup, no emoji codes, no highlighting.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_UNLIMITED = 100_000  # columns of a file or a pipe, in which no line is broken


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or unlimited where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNLIMITED
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def show(target: Console, renderable: RenderableType) -> None:
    """Print a table or text, without the blanks that pad its lines where no terminal is."""
    if target.is_terminal:
        target.print(renderable)
        return
    with target.capture() as captured:
        target.print(renderable)
    target.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def echo_json(document: Any) -> None:
    """Indented JSON on stdout; all but ASCII is escaped, so that no name can steer a terminal."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=True))


def counted(count: int, what: str) -> str:
    """A number and its noun.

    Examples
    --------
    >>> counted(1, "tensor"), counted(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@contextmanager
def byte_progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr with bytes, speed and time left, as a callback (done, total); None where nobody looks."""
    target = console(stderr=True)
    if quiet or not target.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=target, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
