"""Output to the terminal: results on stdout, progress and notes on stderr, sizes in bytes, and JSON.

Scope: rich. Not here: checkpoints (see `tables`). All output is literal text, without markup, emoji codes and
highlighting.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_UNLIMITED = 100_000  # columns of a file or a pipe, where lines are not wrapped


def console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal; without a terminal, the width is unlimited."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNLIMITED
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def show(target: Console, renderable: RenderableType) -> None:
    """Print a table or text; outside a terminal, without trailing blanks."""
    if target.is_terminal:
        target.print(renderable)
        return
    with target.capture() as captured:
        target.print(renderable)
    target.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def echo_json(document: Any) -> None:
    """Print indented JSON on stdout, in ASCII, so that no name can control the terminal."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=True))


@contextmanager
def own_notes() -> Iterator[None]:
    """Keep the library from warning of notes that the command prints itself."""
    from rekernel.errors import RekernelWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RekernelWarning)
        yield


@contextmanager
def byte_progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on stderr; yields a callback (done, total), or None if quiet or without a terminal."""
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
