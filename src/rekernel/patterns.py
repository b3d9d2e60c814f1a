"""Select tensors by pattern: globs and regular expressions, and an error for each pattern that matches nothing.

Scope: tensor names. Not here: shapes and families (see `architectures`).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .errors import Option, RekernelError
from .escape import shell_word, shown
from .text import few, near

_FLAGS = {"overrides": "--set", "methods": "--set", "modes": "--mode"}
_WORD = re.compile(r"(?<!\\)[A-Za-z_][A-Za-z0-9_]{2,}")  # not the letter of an escape such as \d
_SUFFIXES = (".weight", ".bias", ".kernel", "/kernel", "/bias")  # Flax and Keras write a slash


def layer_of(name: str) -> str:
    """Return the name of the layer of a tensor: the tensor's name without 'weight', 'bias' or 'kernel'.

    Examples
    --------
    >>> layer_of("down_blocks.0.resnets.0.conv1.weight"), layer_of("pos_embed")
    ('down_blocks.0.resnets.0.conv1', 'pos_embed')
    """
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def without(name: str) -> Option:
    """Return the option that excludes a tensor or layer, for a message.

    Examples
    --------
    >>> str(without("conv1")), without("conv1").flag
    ("exclude=['conv1']", '--exclude conv1')
    """
    return Option(f"exclude=[{shown(name)!r}]", f"--exclude {shell_word(name)}")


def hinted(what: str, name: str, value: object, typed: str = "") -> Option:
    """Return the hint that settles a fact about a layer, for a message.

    Parameters
    ----------
    value : object
        The value of the hint in Python.
    typed : str
        The value on the command line, if it is written in another way.

    Examples
    --------
    >>> hint = hinted("linear_grid", "fc1", (512, 7, 7), "512,7,7")
    >>> str(hint), hint.flag
    ("hints=Hints(linear_grid={'fc1': (512, 7, 7)})", '--linear-grid fc1=512,7,7')
    """
    flag = f"--{what.replace('_', '-')} {shell_word(f'{name}={typed or value}')}"
    return Option(f"hints=Hints({what}={{{shown(name)!r}: {value!r}}})", flag)


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tests tensor names against a pattern.

    A pattern is a glob, in which * also matches dots, or 're:' and a regular expression for the whole name. A pattern
    that matches the name of a layer matches the tensors of the layer.

    Raises
    ------
    RekernelError
        If the pattern is empty, or the regular expression does not compile.

    Examples
    --------
    >>> matcher("conv_out*")("conv_out.weight"), matcher(r"re:layer[23]\\..*")("layer1.0.conv1.weight")
    (True, False)
    """
    if not pattern:
        raise RekernelError("an empty pattern selects nothing; write '*' for every tensor")
    source = pattern.removeprefix("re:") if pattern.startswith("re:") else fnmatch.translate(pattern)
    try:
        compiled = re.compile(source)
    except re.error as error:
        raise RekernelError(
            f"pattern {shown(pattern)} is not a regular expression: {error}; write \\ before a plain "
            f"bracket, or leave out re: for a pattern with *"
        ) from None

    def matches(name: str) -> bool:
        # Compare the plain name first: in a name, brackets are not a set of characters.
        return any(n == pattern or compiled.fullmatch(n) for n in (name, layer_of(name)))

    return matches


def listed(patterns: Iterable[str], what: str) -> list[str]:
    """The patterns as a list; a text is one pattern.

    Examples
    --------
    >>> listed("conv*", "exclude"), listed(("a", "b"), "exclude")
    (['conv*'], ['a', 'b'])
    """
    if isinstance(patterns, str):
        return [patterns]
    found: list[Any] = list(patterns) if isinstance(patterns, Iterable) else [patterns]
    for pattern in found:
        if not isinstance(pattern, str):
            raise RekernelError(
                f"{what}: {shown(repr(pattern))} is not a pattern; pass a list of layer names: {what}=['conv1*']"
            )
    return found


def by_pattern(table: object, what: str, example: str) -> dict[str, Any]:
    """A dict of patterns that a caller passed; raise where it is something else.

    Parameters
    ----------
    what : str
        Name of the argument.
    example : str
        A right value, for the message.

    Examples
    --------
    >>> by_pattern(None, "modes", "{'conv1*': 'absorb'}"), by_pattern({"a": "absorb"}, "modes", "")
    ({}, {'a': 'absorb'})
    """
    if table is None:
        return {}
    if not isinstance(table, Mapping) or not all(isinstance(pattern, str) for pattern in table):
        raise RekernelError(
            f"{what}={shown(repr(table), 80)} is not a dict with a pattern for each value; pass one: {what}={example}"
        )
    return dict(table)


def select(names: Collection[str], patterns: Iterable[str], what: str) -> set[str]:
    """Return the names that any of the patterns matches; raise, with similar names, if a pattern matches no name.

    Parameters
    ----------
    patterns : iterable of str, or a str
        A text is one pattern.
    what : str
        Origin of the patterns, for the message: the Python name of an option, 'include', or "preset 'inner'".

    Examples
    --------
    >>> sorted(select(["a.weight", "a.bias", "b.weight"], ["a"], "include"))
    ['a.bias', 'a.weight']
    >>> sorted(select(["a.weight", "a.bias", "b.weight"], "b*", "include"))
    ['b.weight']
    """
    chosen: set[str] = set()
    for pattern in listed(patterns, what):
        matches = matcher(pattern)
        found = {name for name in names if matches(name)}
        if not found:
            named = Option(what, _FLAGS.get(what, f"--{what.replace('_', '-')}")) if what.isidentifier() else what
            raise RekernelError(named, f": pattern {shown(pattern)} matches no tensor", *_near(pattern, names))
        chosen |= found
    return chosen


def _near(pattern: str, names: Collection[str]) -> tuple[str | Option, ...]:
    candidates = sorted({*names, *map(layer_of, names)})[:4000]
    meant = _respelt(pattern, candidates)
    found = [meant] if meant else near(pattern.removeprefix("re:").replace("*", ""), candidates, 3)
    if found:
        return (f"; near: {', '.join(map(shown, found))}",)
    such = f" of {len(names)}, such as {few([shown(name) for name in candidates if name in names], 3)}"
    return such, Option("", "; `rekernel inspect SOURCE --tensors` lists them")


def _respelt(pattern: str, names: Sequence[str]) -> str:
    """The pattern with each word that no name has replaced by a word that one has, if it then matches; else empty."""
    if not any(c in pattern for c in "*?[") and not pattern.startswith("re:"):
        return ""
    words = {word for name in names for word in _WORD.findall(name)}

    def spelt(found: re.Match[str]) -> str:
        word = found[0]
        return word if any(word in known for known in words) else next(iter(near(word, words)), word)

    head, body = ("re:", pattern[3:]) if pattern.startswith("re:") else ("", pattern)
    meant = head + _WORD.sub(spelt, body)
    matches = matcher(meant)
    return meant if any(map(matches, names)) else ""
