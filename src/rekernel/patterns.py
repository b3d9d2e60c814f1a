"""Select tensors by pattern: globs and regular expressions, and an error for each pattern that matches nothing.

Scope: tensor names. Not here: shapes and families (see `architectures`).
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from .errors import Option, RekernelError
from .escape import shown

_FLAGS = {"overrides": "--set", "methods": "--set", "modes": "--mode"}
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
    return Option(f"exclude=[{shown(name)!r}]", f"--exclude {shown(name)}")


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
    flag = f"--{what.replace('_', '-')} {shown(name)}={typed or value}"
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
        raise RekernelError(f"pattern {shown(pattern)} is not a regular expression: {error}") from None

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
            raise RekernelError(named, f": pattern {shown(pattern)} matches no tensor{_near(pattern, names)}")
        chosen |= found
    return chosen


def _near(pattern: str, names: Collection[str]) -> str:
    candidates = {*names, *map(layer_of, names)}
    near = difflib.get_close_matches(pattern.removeprefix("re:").replace("*", ""), sorted(candidates)[:4000], n=3)
    return f"; near: {', '.join(map(shown, near))}" if near else f" of {len(names)}; `rekernel inspect` lists them"
