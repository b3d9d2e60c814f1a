"""The command group `rekernel`: the list of commands, and how errors are shown.

A `RekernelError` or an error of the operating system is shown as one line on stderr, with exit code 1. click handles
wrong usage, with exit code 2. Any other exception is a bug, and one line asks the user to report it; the traceback is
shown with `rekernel --debug`. Large packages are not imported here, so that `rekernel --help` starts fast.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from .help_layout import WIDTH, Entry, LazyGroup
from .signals import as_interrupts, exit_code

_ENTRIES = {
    "inspect": Entry(
        "rekernel_cli.commands.inspect:inspect", "Look", "Show what a checkpoint holds, from its header alone."
    ),
    "plan": Entry(
        "rekernel_cli.commands.plan:plan", "Look", "Show what would happen to every tensor of SOURCE, and why."
    ),
    "convert": Entry(
        "rekernel_cli.commands.convert:convert",
        "Convert",
        "Rescale the weights in SOURCE and write TARGET; SOURCE is never changed.",
    ),
    "push": Entry(
        "rekernel_cli.commands.push:push",
        "Share",
        "Publish a converted model on the Hugging Face Hub, with a model card.",
    ),
    "verify": Entry(
        "rekernel_cli.commands.verify:verify",
        "Try",
        "Measure how much a converted checkpoint differs from the original.",
    ),
    "sample": Entry(
        "rekernel_cli.commands.sample:sample",
        "Try",
        "Sample the diffusers pipeline in SOURCE and write a grid of pictures.",
    ),
    "demo": Entry(
        "rekernel_cli.commands.demo:demo", "Try", "Convert two small classifiers and measure their accuracy."
    ),
}


_LONGEST = 100_000  # characters of a message


class Failure(click.ClickException):
    """A failure that the user can correct. The message is not escaped, so it must not contain raw text of a file."""


class Stopped(click.ClickException):
    """The user pressed Ctrl-C, or the system asked the command to end."""

    def __init__(self, state: str = "nothing was left behind.") -> None:
        super().__init__(f"Stopped; {state}")

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return exit_code()

    def show(self, file: Any = None) -> None:
        click.echo(f"\n{self.message}", err=True)


class Rekernel(LazyGroup):
    """The group, which shows errors of the library and of the operating system as one line."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _printable():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # Escape characters that the terminal cannot show, instead of failing.
            with suppress(AttributeError, ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        if not sys.stderr.isatty():  # otherwise the client of the Hub writes progress bars into logs
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if ctx.params.get("debug"):
            with _notes():
                return super().invoke(ctx)
        try:
            with as_interrupts(), _printable(), _notes():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped from None
        except BrokenPipeError:
            raise  # the reader closed the pipe; click exits without a message
        except OSError as error:
            raise Failure(_refusal(error)) from None
        except MemoryError as error:
            detail = f" ({error})" if str(error) else ""
            raise Failure(f"not enough memory{detail}.") from None
        except Exception as error:
            if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort):
                raise
            _last(error)


@contextmanager
def _printable() -> Iterator[None]:
    """Escape what click quotes of the command line, which a shell may have filled with names of files."""
    try:
        yield
    except click.ClickException as error:
        error.message = _inert(error.message)  # type: ignore[misc]
        raise


@contextmanager
def _notes() -> Iterator[None]:
    """Show notes of the library in the words of the command. Commands that print notes in a table ignore these."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Warning | str, *where: Any) -> None:
            said = getattr(message, "on_command_line", None)
            if said is None:
                before(message, *where)
            else:
                click.echo(f"note: {_inert(said())}", err=True)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _inert(message: str) -> str:
    if message.isprintable():
        return message
    from rekernel.escape import inert

    return inert(message, _LONGEST)


def _last(error: Exception) -> NoReturn:
    """Raise an error of the library as a failure of one line, and any other as one that asks for a report."""
    errors = sys.modules.get("rekernel.errors")
    if errors is not None and isinstance(error, errors.RekernelError):
        # Names in the message are escaped already; should one not be, the terminal still does not obey it.
        raise Failure(_inert(error.on_command_line())) from None
    raise Failure(_bug(error)) from None


def _bug(error: Exception) -> str:
    """One line about an error of ours, which the user can only report."""
    from rekernel.escape import cause

    steps = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(steps[-1].filename).name}, line {steps[-1].lineno})" if steps else ""
    said = f"{type(error).__name__}: {cause(error)}" if str(error).strip() else cause(error)
    return (
        f"this is a bug in rekernel, or a file of a kind that it does not expect: {said}{where}; please report it with "
        f"what `rekernel --debug` before the same command shows."
    )


def _refusal(error: OSError) -> str:
    """Return an error of the operating system as one line."""
    from rekernel.escape import shown

    names = [shown(os.fsdecode(n), 400) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)]
    return f"{' -> '.join(names)}: {error.strerror}." if names else f"{error.strerror or shown(str(error), 400)}."


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import rekernel

        click.echo(f"rekernel {rekernel.__version__}")
        ctx.exit()


@click.group(
    cls=Rekernel,
    entries=_ENTRIES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)
@click.option(
    "--debug", is_flag=True, help="Show the traceback of every error, for a report: rekernel --debug convert ..."
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main(debug: bool) -> None:
    """Rescale the weights of trained networks to new resolutions, without training.

    \b
        rekernel inspect unet.safetensors
        rekernel plan unet.safetensors --scale 2
        rekernel convert unet.safetensors unet-2x.safetensors --scale 2
        rekernel convert hf://org/model model-2x/ --scale 2 && rekernel push model-2x/ me/model-2x

    Completion in the shell, a line for ~/.bashrc; for zsh and fish docs/cli.md has others:

    \b
        eval "$(_REKERNEL_COMPLETE=bash_source rekernel)"

    Results go to stdout, progress and errors go to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by
    Ctrl-C, 143 by SIGTERM.
    """


if "_REKERNEL_COMPLETE" in os.environ:
    from . import completion  # noqa: F401 - it adds the words of bash to click's
