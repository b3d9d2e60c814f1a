"""How help is laid out: options under headings, commands under headings, commands imported when they are needed.

Knows click; no command of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

WIDTH = 100  # of help, at most
_OPTION_COLUMN = 30
_EVERYTHING = "rekernel.help-all"  # in a context's meta: rare options are listed too


class GroupedOption(click.Option):
    """An option that is listed under the heading `group`; a `rare` one with --help-all alone."""

    def __init__(self, *args: Any, group: str = "Options", rare: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.rare = rare


class GroupedCommand(click.Command):
    """A command whose help lists its options under their headings, in the order of declaration.

    Where there are rare ones, --help leaves them out, so that it fits a screen, and names --help-all.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        return [*params, _help_all(hidden=not any(map(_is_rare, params)))]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None and (_EVERYTHING in ctx.meta or not _is_rare(param)):
                # --help and --help-all come last and join the last heading.
                group = getattr(param, "group", list(groups)[-1] if groups else "Options")
                groups.setdefault(group, []).append(record)
        names = [name for records in groups.values() for name, _ in records if len(name) <= _OPTION_COLUMN - 2]
        width = max(map(len, names), default=0)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in records], _OPTION_COLUMN)


def show_rare(ctx: click.Context) -> click.Context:
    """The context, in which help lists the rare options too."""
    ctx.meta[_EVERYTHING] = True
    return ctx


def _help_all(*, hidden: bool) -> click.Option:
    """--help-all, which every command takes; without rare options it is --help."""
    return click.Option(
        ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_print_everything, hidden=hidden,
        help="Show this, and the options that few need.",
    )  # fmt: skip


def _print_everything(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        click.echo(show_rare(ctx).get_help(), color=ctx.color)
        ctx.exit()


def _is_rare(param: click.Parameter) -> bool:
    return isinstance(param, GroupedOption) and param.rare


@dataclass(frozen=True)
class Entry:
    """One command before it is imported: where it is, and how the help lists it."""

    target: str
    section: str
    summary: str


class LazyGroup(click.Group):
    """A group that imports a command when it is called; a command whose module does not exist is not listed."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = {name: entry for name, entry in entries.items() if find_spec(_module(entry)) is not None}

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), _help_all(hidden=True)]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.entries:
            return None
        entry = self.entries[cmd_name]
        command: click.Command = getattr(import_module(_module(entry)), entry.target.partition(":")[2])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.entries), default=0)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            sections.setdefault(entry.section, []).append((name.ljust(width), entry.summary))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _module(entry: Entry) -> str:
    return entry.target.partition(":")[0]
