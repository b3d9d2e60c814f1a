"""Turn the bytes of a fuzzing engine into choices, and documents into documents that are a little wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 0.5, 2.0, -0.0, 65, 4096, 4097, 2**20, 2**31, 2**47, 2**53 + 1, 2**63, 2**64,
    10**30, 1e-308, 1e308, -1e308, float("inf"), float("nan"), "", "a", "2", "conv.weight", "../x", "\u202e\x1b[2J\n",
    "\ud800", "\x00", "x" * 3000, "optimal", "pinv-linear", "dilate", "kernel", "grid", "keep", "F16", "I64", "F4",
    [], {}, [[]], [1, 2], [0, 0], [1] * 70, {"a": 1}, [None], "1e999",
)  # fmt: skip
"""Values that a field does not expect."""


class Choices:
    """The bytes of an input, read as decisions; when the bytes end, every decision is the first one."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def below(self, count: int) -> int:
        """A number from 0 to `count` - 1."""
        wide = 2 if count > 256 else 1
        taken = self.data[self.at : self.at + wide]
        self.at += wide
        return int.from_bytes(taken, "little") % max(count, 1)

    def pick(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def odd(self) -> Any:
        """An odd value, or a number of up to two bytes."""
        return copy.deepcopy(self.pick(ODD)) if self.below(4) else self.below(1 << 16)

    def rest(self) -> bytes:
        taken = self.data[self.at :]
        self.at = len(self.data)
        return taken


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        found += places(inner)
    return found


def mutated(document: Any, choices: Choices) -> Any:
    """A copy of a document with up to five fields that are replaced, removed, doubled, exchanged or renamed."""
    changed = copy.deepcopy(document)
    for _ in range(1 + choices.below(5)):
        spots = places(changed)
        if not spots:
            return choices.odd()
        holder, key = choices.pick(spots)
        kind = choices.below(8)
        if kind < 4:
            holder[key] = choices.odd()
        elif kind == 4:
            del holder[key]
        elif kind == 5:
            other, place = choices.pick(spots)
            if place in other if isinstance(other, dict) else place < len(other):
                holder[key] = copy.deepcopy(other[place])
        elif kind == 6:
            holder[key] = [copy.deepcopy(holder[key])] * choices.below(4)
        elif isinstance(holder, dict):
            holder[str(choices.odd())] = holder.pop(key)
    return changed


def json_bytes(document: Any) -> bytes:
    """JSON with whatever Python can write: infinities and half surrogate pairs too."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def spoiled(raw: bytes, choices: Choices) -> bytes:
    """Bytes with up to eight places overwritten, cut out or doubled."""
    out = bytearray(raw)
    for _ in range(1 + choices.below(8)):
        if not out:
            break
        place, kind = choices.below(min(len(out), 1 << 16)), choices.below(4)
        if kind == 0:
            out[place] = choices.below(256)
        elif kind == 1:
            out[place] ^= 1 << choices.below(8)
        elif kind == 2:
            del out[place : place + 1 + choices.below(16)]
        else:
            out[place:place] = out[place : place + 1 + choices.below(32)]
    return bytes(out)


def document_bytes(document: Any, data: bytes) -> bytes:
    """The bytes of an engine as JSON text: as they are, or as changes of a document."""
    choices = Choices(data)
    kind = choices.below(8)
    if kind == 0:
        return choices.rest()
    if kind == 1:
        return spoiled(json_bytes(document), choices)
    return json_bytes(mutated(document, choices))
