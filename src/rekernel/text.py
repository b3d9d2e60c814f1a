"""Sizes, scales and lists as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def byte_size(nbytes: int) -> str:
    """A number of bytes as a person reads it, in the units in which sizes are asked for.

    Examples
    --------
    >>> byte_size(1), byte_size(999), byte_size(1_719_000_000), byte_size(2**62)
    ('1 byte', '999 bytes', '1.7 GB', '4.6 EB')
    """
    if nbytes < 1000:
        return f"{nbytes} byte{'' if nbytes == 1 else 's'}"
    size, units = nbytes / 1000, iter(_UNITS)
    unit = next(units)
    while size >= 1000 and (larger := next(units, None)):
        size, unit = size / 1000, larger
    return f"{size:,.1f} {unit}"


def dims(sizes: Iterable[object]) -> str:
    """Sizes along axes.

    Examples
    --------
    >>> dims((8, 4, 3, 3)), dims(())
    ('8x4x3x3', 'scalar')
    """
    return "x".join(map(str, sizes)) or "scalar"


def few(items: Sequence[str], most: int = 5) -> str:
    """The first of some items, and the number of the others, so that a message stays short.

    Examples
    --------
    >>> few(["a", "b"]), few(["a", "b", "c", "d"], 2), few([])
    ('a, b', 'a, b and 2 more', 'none')
    """
    rest = len(items) - most
    return (", ".join(items[:most]) or "none") + (f" and {rest} more" if rest > 0 else "")


def scale_text(scale: float | Sequence[float] | str) -> str:
    """A scale as it is typed; the word 'auto' stays as it is.

    Examples
    --------
    >>> scale_text(2.0), scale_text((1.5, 2.0)), scale_text((2.0, 2.0, 2.0)), scale_text("auto")
    ('2', '1.5x2', '2x2x2', 'auto')
    """
    if isinstance(scale, str):
        return scale
    return "x".join(f"{s:g}" for s in (scale if isinstance(scale, Sequence) else (scale,)))


def counted(count: int, what: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "tensor"), counted(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def near(word: object, known: Iterable[str], most: int = 1) -> list[str]:
    """The names that a misspelt word may mean, the nearest first; capital letters do not count.

    Examples
    --------
    >>> near("cubik", ["linear", "cubic"]), near("DC", ["dc", "none"]), near("zzz", ["cubic"])
    (['cubic'], ['dc'], [])
    """
    from difflib import get_close_matches

    if not isinstance(word, str):  # the caller says what the value is; nothing is near a list
        return []
    lowered = {name.lower(): name for name in known}
    return [lowered[name] for name in get_close_matches(word.lower(), lowered, n=most)]


def meant(word: object, known: Iterable[str]) -> str:
    """What a misspelt word may mean, as the end of a message that lists all names; empty if nothing is near.

    Examples
    --------
    >>> meant("cubik", ["linear", "cubic"]), meant("zzz", ["linear", "cubic"])
    ('; did you mean cubic?', '')
    """
    return "".join(f"; did you mean {name}?" for name in near(word, known))


def choices(word: object, known: Iterable[str]) -> str:
    """What a misspelt word may mean, and all names there are, as the end of a message.

    Examples
    --------
    >>> choices("cubik", ["linear", "cubic"]), choices("zzz", ["linear", "cubic"])
    ('did you mean cubic? Choose from linear, cubic', 'choose from linear, cubic')
    """
    names = list(known)
    meant = near(word, names)
    return f"did you mean {meant[0]}? Choose from {', '.join(names)}" if meant else f"choose from {', '.join(names)}"
