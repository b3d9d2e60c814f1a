"""The tables of `rekernel push --dry-run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekernel.escape import inert, shown
from rekernel.text import byte_size, counted

from ..terminal import show

if TYPE_CHECKING:
    from rekernel.hub import Pushed


def print_files(target: Console, done: Pushed) -> None:
    """Print the uploaded files with sizes, and the other files with reasons."""
    _listed(target, ("file", "size"), [(shown(name, 200), byte_size(size)) for name, size in done.files], right="size")
    target.print()
    if done.left:
        _listed(target, ("not uploaded", "reason"), [(shown(name, 200), reason) for name, reason in done.left])
        target.print()
    target.print(f"{done.repo}: {counted(len(done.files), 'file')}, {byte_size(done.nbytes)}; {inert(done.message)}")


def _listed(target: Console, heads: tuple[str, str], rows: list[tuple[str, str]], right: str = "") -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, justify="right" if head == right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    show(target, table)
