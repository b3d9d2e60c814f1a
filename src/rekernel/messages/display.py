"""How a result shows itself: one line in Python, and in Jupyter this line with tables, of which long ones are folded.

Scope: text and HTML. Not here: what a result says of itself (see the results). The HTML names no colours except those
of the page, so it reads on light and dark pages alike. Every text is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..escape import inert
from ..text import counted

SHORT = 12
"""A table with more rows is folded."""
MOST = 100
"""As many rows of a table are shown."""

_CELL = "text-align:left"  # Jupyter aligns to the right


@dataclass(frozen=True)
class Table:
    """A table below the line of a result.

    title : what the rows are, such as '12 tensors change'
    heads : titles of the columns; none for a list
    rows : cells, as text that is escaped for a terminal but not for HTML
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_html(self) -> str:
        """Return the table; folded if it is long.

        Examples
        --------
        >>> Table("2 notes", (), [("a < b",), ("c",)]).to_html().count("&lt;")
        1
        """
        head = f"<tr>{''.join(_cell('th', text) for text in self.heads)}</tr>" if self.heads else ""
        rows = [f"<tr>{''.join(_cell('td', text) for text in row)}</tr>" for row in self.rows[:MOST]]
        more = len(self.rows) - MOST
        rest = f"<div>and {more:,} more</div>" if more > 0 else ""
        is_open = " open" if len(self.rows) <= SHORT else ""
        body = f'<table style="border-collapse:collapse">{head}{"".join(rows)}</table>{rest}'
        return f"<details{is_open}><summary>{_text(self.title)}</summary>{body}</details>"


class Displayed:
    """A result that shows itself briefly. A subclass says what it is in `_line`, and the rest in `_tables`."""

    def _line(self) -> str:
        raise NotImplementedError

    def _tables(self) -> Iterable[Table]:
        return ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {inert(self._line())}>"

    def _repr_html_(self) -> str:
        tables = "".join(table.to_html() for table in self._tables() if table.rows)
        return f"<div><b>{type(self).__name__}</b>: {_text(self._line())}{tables}</div>"


def notes_table(notes: Sequence[str]) -> Table:
    """The notes of a result.

    Examples
    --------
    >>> notes_table(["stride 1 is assumed"]).title
    '1 note'
    """
    return Table(counted(len(notes), "note"), (), [(note,) for note in notes])


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="{_CELL}">{_text(text)}</{tag}>'


def _text(text: str) -> str:
    return html.escape(inert(text, 400))
