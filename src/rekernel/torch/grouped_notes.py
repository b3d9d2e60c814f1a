"""Group the notes of a plan that say the same about many layers, or with other numbers at many places.

Scope: text. Not here: what is noted (see `torch.planning` and `torch.checking`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..text import few

_STAY = 3
"""As many notes of a kind stay as they are."""
_NAMED = re.compile(r"(the model itself|[^\s:,]+): (.+)", re.DOTALL)
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class _Note:
    """A note, or several that say the same.

    layers : the layers that they name
    text : what the first of them says of its layer
    places : number of notes
    others : whether some of them have other numbers
    said : a single note as it was; empty for several
    """

    layers: tuple[str, ...]
    text: str
    places: int = 1
    others: bool = False
    said: str = ""

    def spoken(self) -> str:
        """The text; of a single note the note itself, which knows the words of the command line."""
        if self.said:
            return self.said
        names = f"{few(self.layers, 2 if len(self.layers) > _STAY else _STAY)}: " if self.layers else ""
        numbers = f" (at {self.places} places, with other numbers at some)" if self.others else ""
        return f"{names}{self.text}{numbers}"


def grouped(notes: Iterable[str]) -> list[str]:
    """The notes, those that differ in the name of the layer or in a number alone as one, if there are more than three.

    Each stands where the first of its notes stood. Notes that differ in any word stay apart.

    Examples
    --------
    >>> grouped(f"{n}: its weight was baked" for n in range(33))
    ['0, 1 and 31 more: its weight was baked']
    >>> grouped([*(f"the model itself: takes pixel {n} of 8" for n in range(5)), "head: sums over 64 pixels"])
    ['the model itself: takes pixel 0 of 8 (at 5 places, with other numbers at some)', 'head: sums over 64 pixels']
    """
    each = [_read(note) for note in dict.fromkeys(notes)]
    same = _joined(each, lambda note: note.text)
    return [note.spoken() for note in _joined(same, lambda note: _NUMBER.sub("0", note.text))]


def _read(note: str) -> _Note:
    found = _NAMED.fullmatch(note)
    return _Note((found[1],), found[2], said=note) if found else _Note((), note, said=note)


def _joined(notes: Sequence[_Note], key: Callable[[_Note], str]) -> list[_Note]:
    """The notes, those with the same key as one; a few stay as they are. Notes with and without a layer stay apart."""
    kinds: dict[tuple[bool, str], list[_Note]] = {}
    for note in notes:
        kinds.setdefault((bool(note.layers), key(note)), []).append(note)
    result = []
    for note in notes:
        kind = kinds[bool(note.layers), key(note)]
        if len(kind) <= _STAY:
            result.append(note)
        elif note is kind[0]:
            layers = dict.fromkeys(layer for each in kind for layer in each.layers)
            differ = any(each.text != note.text for each in kind)
            result.append(_Note(tuple(layers), note.text, sum(each.places for each in kind), differ))
    return result
