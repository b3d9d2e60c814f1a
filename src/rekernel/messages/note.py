"""A note: text for a person, which names options as the reader types them.

Scope: the text in both languages, and its JSON. Not here: how a note reaches a person in Python (see
`messages.warn`) and on the command line (see `rekernel_cli.tables.plan`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from ..errors import Option


class Note(str):
    """A note in the words of Python, which also knows the words of the command line.

    A note is a `str`, so that plans hold notes and plain texts alike.

    Parameters
    ----------
    *parts : str, Option or Note
        Pieces of the text, in order. An option is shown as the reader of the note types the option.

    Examples
    --------
    >>> note = Note("where that is wrong, pass ", Option("hints=Hints(stride={'NAME': 2})", "--stride NAME=2"))
    >>> print(note)
    where that is wrong, pass hints=Hints(stride={'NAME': 2})
    >>> note.on_command_line()
    'where that is wrong, pass --stride NAME=2'
    """

    parts: tuple[str | Option, ...]

    def __new__(cls, *parts: str | Option) -> Self:
        flat: list[str | Option] = []
        for part in parts:
            flat += part.parts if isinstance(part, Note) else [part]
        note = super().__new__(cls, "".join(map(str, flat)))
        note.parts = tuple(flat)
        return note

    def on_command_line(self) -> str:
        """Return the text for a user of the command line."""
        return "".join(part.flag if isinstance(part, Option) else part for part in self.parts)


def parts_of(text: str) -> tuple[str | Option, ...]:
    """The pieces of a note, or a plain text as the only piece: arguments of an error that quotes it.

    Examples
    --------
    >>> parts_of("plain"), parts_of(Note("pass ", Option("a=1", "--a 1")))
    (('plain',), ('pass ', Option(python='a=1', flag='--a 1')))
    """
    return text.parts if isinstance(text, Note) else (text,)


def names_option(text: str) -> bool:
    """Whether a note names an option, with which its reader can settle the matter.

    Examples
    --------
    >>> names_option("plain"), names_option(Note("pass ", Option("a=1", "--a 1")))
    (False, True)
    """
    return any(isinstance(part, Option) for part in parts_of(text))


def on_command_line(text: str) -> str:
    """A note, or a plain text, for a user of the command line.

    Examples
    --------
    >>> on_command_line("plain"), on_command_line(Note("pass ", Option("a=1", "--a 1")))
    ('plain', 'pass --a 1')
    """
    return text.on_command_line() if isinstance(text, Note) else text


def to_json(notes: Iterable[str]) -> list[Any]:
    """Notes as JSON values: the text, or both texts where the note names an option.

    Examples
    --------
    >>> to_json(["plain", Note("pass ", Option("a=1", "--a 1"))])
    ['plain', {'python': 'pass a=1', 'command': 'pass --a 1'}]
    """
    return [
        {"python": str(note), "command": on_command_line(note)} if names_option(note) else str(note) for note in notes
    ]


def from_json(value: Any) -> str:
    """Read a value that `to_json` wrote.

    Raises
    ------
    TypeError
        For any other value.

    Examples
    --------
    >>> from_json({"python": "pass a=1", "command": "pass --a 1"}).on_command_line()
    'pass --a 1'
    """
    if isinstance(value, str):
        return value
    if (
        isinstance(value, dict)
        and set(value) == {"python", "command"}
        and all(isinstance(v, str) for v in value.values())
    ):
        return Note(Option(value["python"], value["command"]))
    raise TypeError("a note is neither text nor an object with the texts python and command")
