"""Complete the values of options in the shell: names, settings NAME=VALUE, and what the checkpoint in SOURCE has.

Scope: click's completion. Not here: the parsing of values (see `values`), and the names (see `names`). A checkpoint
that cannot be read completes to nothing, without an error message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

Known = Callable[[], Sequence[str]]
Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def words(known: Known, *more: str) -> Complete:
    """Complete one of some names."""
    return lambda _ctx, _param, begun: _beginning(begun, [*known(), *more])


def hinted(known: Known, *, bare: bool = False) -> Complete:
    """Complete the VALUE of NAME=VALUE among some names, and NAME among the layers of SOURCE.

    Parameters
    ----------
    bare : bool
        Whether a value without NAME is allowed too.
    """

    def complete(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
        name, equals, value = begun.rpartition("=")
        if equals:
            return [f"{name}={word}" for word in _beginning(value, known())]
        return [*_beginning(begun, known() if bare else []), *(f"{name}=" for name in _beginning(begun, _layers(ctx)))]

    return complete


def settings(known: Callable[[], dict[str, Sequence[str]]], *, after: str = "") -> Complete:
    """Complete K=V,K=V,...: the name of the last setting, or its value where its values are words.

    Parameters
    ----------
    known : callable () -> dict
        The words that each setting may have; none for numbers.
    after : str
        The settings come behind the first such text.
    """

    def complete(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
        head, mark, rest = begun.rpartition(after) if after else ("", "", begun)
        if after and not mark:
            return []
        done, comma, last = rest.rpartition(",")
        before = f"{head}{mark}{done}{comma}"
        name, equals, value = last.partition("=")
        table = known()
        if equals:
            return [f"{before}{name}={word}" for word in _beginning(value, table.get(name, ()))]
        return [f"{before}{word}=" for word in _beginning(last, table)]

    return complete


def layers(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Complete the names of layers in SOURCE, for a pattern."""
    return _beginning(begun, _layers(ctx))


def presets(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Complete a preset that the family of the checkpoint has; of any family where there is no checkpoint."""
    return _beginning(begun, {name: None for part in _parts(ctx) for name in part.presets} or ("inner", "all"))


def components(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Complete a component of the pipeline in SOURCE."""
    info = _info(ctx)
    return _beginning(begun, info.components if info is not None else ())


def _beginning(begun: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(begun)]


def _layers(ctx: click.Context) -> list[str]:
    from rekernel.patterns import layer_of

    return list(dict.fromkeys(layer_of(t.name) for part in _parts(ctx) for t in part.tensors if t.name.isprintable()))


def _parts(ctx: click.Context) -> list[Any]:
    info = _info(ctx)
    return [] if info is None else [*info.components.values()] or [info]


def _info(ctx: click.Context) -> Any:
    """What `rekernel.inspect` says of a local SOURCE; None where it cannot be read."""
    # click stops at the option that lacks its value, before it gives the arguments their names.
    source = ctx.params.get("source") or next(iter(ctx.args), None)
    if not source or not Path(source).exists():
        return None
    import rekernel

    try:
        return rekernel.inspect(source)
    except (rekernel.RekernelError, OSError):
        return None


class _Bash(BashComplete):
    """Bash takes = and : for ends of words; here they belong to a word, as in every other shell."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, at = split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        typed: list[str] = []
        ends = False
        for word in words[1 : at + 1]:
            if typed and (ends or word in ("=", ":")):
                typed[-1] += word
            else:
                typed.append(word)
            ends = word in ("=", ":")
        *typed, self._begun = typed if at < len(words) else [*typed, ""]
        return typed, self._begun

    def format_completion(self, item: CompletionItem[Any]) -> str:
        done = max(self._begun.rfind("="), self._begun.rfind(":")) + 1  # bash replaces what follows
        value = item.value[done:] if item.value.startswith(self._begun[:done]) else item.value
        return f"{item.type},{value}"


add_completion_class(_Bash, "bash")
