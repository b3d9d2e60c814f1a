"""Layout of the help: options and commands under headings; each command is imported when a user calls the command.

Scope: click. Not here: the commands and their options (see `main`, `options`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

WIDTH = 100  # largest width of the help, in columns
_OPTION_COLUMN = 30
_EVERYTHING = "rekernel.help-all"  # key in the meta of a context: list rare options too


Help = str | Callable[[], str]
"""A text for the help, or a function that returns the text when the help is shown."""


class GroupedOption(click.Option):
    """An option listed under the heading `group`; only --help-all lists a `rare` option."""

    def __init__(self, *args: Any, group: str = "Options", rare: bool = False, **kwargs: Any) -> None:
        text = kwargs.pop("help", None)  # click would take a function for a text
        super().__init__(*args, **kwargs)
        self.group = group
        self.rare = rare
        self.help = text

    @property
    def help(self) -> str | None:
        """The text, which a function may look up only now."""
        return self._text() if callable(self._text) else self._text

    @help.setter
    def help(self, text: Help | None) -> None:
        self._text = text


class GroupedCommand(click.Command):
    """A command whose help lists the options under headings, in the order of declaration.

    If a command has rare options, --help omits them, so that the help fits on a screen, and names --help-all.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        return [*params, _help_all(hidden=not any(map(_is_rare, params)))]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.possibilities or ctx.parent is None or ctx.resilient_parsing:
                raise
            raise click.UsageError(
                f"No such option {error.option_name!r}{_others(error.option_name, ctx)}", ctx
            ) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None and (_EVERYTHING in ctx.meta or not _is_rare(param)):
                # --help and --help-all come last, under the last heading.
                group = getattr(param, "group", list(groups)[-1] if groups else "Options")
                groups.setdefault(group, []).append(record)
        names = [name for records in groups.values() for name, _ in records if len(name) <= _OPTION_COLUMN - 2]
        width = max(map(len, names), default=0)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in records], _OPTION_COLUMN)


def show_rare(ctx: click.Context) -> click.Context:
    """Set up the context so that the help lists rare options too; return the context."""
    ctx.meta[_EVERYTHING] = True
    return ctx


def _help_all(*, hidden: bool) -> click.Option:
    """Return the option --help-all of every command; for a command without rare options, it equals --help."""
    return click.Option(
        ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_print_everything, hidden=hidden,
        help="Show this message with the rarely needed options.",
    )  # fmt: skip


def _print_everything(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        click.echo(show_rare(ctx).get_help(), color=ctx.color)
        ctx.exit()


def _others(option: str, ctx: click.Context) -> str:
    """Name the other commands that have an option; empty if none has."""
    group = ctx.parent.command if ctx.parent else None
    if not isinstance(group, click.Group):
        return "."
    having = []
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None and any(option in param.opts for param in command.params):
            having.append(name)
    return f"; {' and '.join(having)} {'has' if len(having) == 1 else 'have'} it." if having else "."


def _is_rare(param: click.Parameter) -> bool:
    return isinstance(param, GroupedOption) and param.rare


_COMPLETION = (
    'for completion put eval "$(_REKERNEL_COMPLETE=bash_source rekernel)" into ~/.bashrc, the same with zsh_source '
    "into ~/.zshrc, or _REKERNEL_COMPLETE=fish_source rekernel | source into ~/.config/fish/completions/rekernel.fish"
)


@dataclass(frozen=True)
class Entry:
    """A command that is not imported yet.

    target : module and attribute of the command, as 'module:attribute'
    section : heading of the command in the help
    summary : first line of the command's help
    """

    target: str
    section: str
    summary: str


class LazyGroup(click.Group):
    """A group that imports a command when a user calls the command; a command without a module is not listed."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = {name: entry for name, entry in entries.items() if find_spec(_module(entry)) is not None}

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), _help_all(hidden=True)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.possibilities or ctx.resilient_parsing:
                raise
            if error.option_name.startswith("--") and "completion" in error.option_name:
                raise click.UsageError(f"No such option {error.option_name!r}; {_COMPLETION}", ctx) from None
            raise click.UsageError(
                f"No such option {error.option_name!r} before a command; options follow the command, as in "
                f"`{ctx.command_path} convert SOURCE TARGET --scale 2`.", ctx,
            ) from None  # fmt: skip

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.entries:
            return None
        entry = self.entries[cmd_name]
        command: click.Command = getattr(import_module(_module(entry)), entry.target.partition(":")[2])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = str(args[0])
        if name not in self.entries and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name.lower(), self.entries, n=1)
            known = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(self.entries)}."
            if name == "help":
                known = "did you mean --help?"
            elif name in ("completion", "completions"):
                known = _COMPLETION
            elif os.path.lexists(name):
                known = f"did you mean {ctx.command_path} {next(iter(self.entries))} {shlex.quote(name)}?"
            ctx.fail(f"No such command {name!r}; {known}")
        return super().resolve_command(ctx, args)

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
