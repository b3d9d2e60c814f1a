"""`RekernelError`, the exception for every mistake that a user can correct, and `RekernelWarning`, for every note.

Scope: the classes and their messages. Every other module raises `RekernelError` or a subclass. Not here: files.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """An option in a message, as Python callers and users of the command type the option.

    python : argument of the Python function
    flag : option of the command
    """

    python: str
    flag: str

    def __str__(self) -> str:
        return self.python


FORCE = Option("force=True", "--force")
"""What lets an existing file be replaced."""

RESUME = Option("resume=True", "--resume")
"""What continues an interrupted conversion."""

MAX_SHARD_SIZE = Option("max_shard_size=", "--max-shard-size")
"""What makes several files of one checkpoint."""

FINISH = Option("finish=True", "--finish")
"""What makes a result of the parts of a conversion."""


class _InPartsError(Exception):
    """A message in parts, some of which Python and the command word each in its own way."""

    def __init__(self, *parts: str | Option) -> None:
        super().__init__(*parts)

    def __str__(self) -> str:
        return "".join(map(str, self.args))

    def on_command_line(self) -> str:
        """Return the message for a user of the command line."""
        return "".join(part.flag if isinstance(part, Option) else str(part) for part in self.args)


class RekernelError(_InPartsError, ValueError):
    """A mistake that the user can correct. The message says what is wrong, where, and what to do.

    Parameters
    ----------
    *parts : str or Option
        Pieces of the message, in order. An option is shown as the reader of the message types the option.

    Examples
    --------
    >>> issubclass(RekernelError, ValueError)
    True
    >>> error = RekernelError("out: exists; pass ", Option("force=True", "--force"), " to replace it.")
    >>> print(error)
    out: exists; pass force=True to replace it.
    >>> error.on_command_line()
    'out: exists; pass --force to replace it.'
    """


class RekernelWarning(_InPartsError, UserWarning):  # noqa: N818 - it is a warning
    """A note: what is ambiguous or may surprise, and the argument that settles it.

    `warnings.filterwarnings("error", category=rekernel.RekernelWarning)` makes notes errors, and "ignore" hides them.

    Parameters
    ----------
    *parts : str or Option
        As for `RekernelError`.

    Examples
    --------
    >>> note = RekernelWarning("stride 1 is assumed; pass ", Option("hints=Hints(stride={'a': 2})", "--stride a=2"))
    >>> print(note)
    stride 1 is assumed; pass hints=Hints(stride={'a': 2})
    >>> note.on_command_line()
    'stride 1 is assumed; pass --stride a=2'
    """


class CheckpointError(RekernelError):
    """A checkpoint cannot be read or written. The message is one line: the file, the fault and what to do."""


class SeveralCheckpointsError(CheckpointError):
    """A folder holds several checkpoints where one is needed."""


class BusyError(CheckpointError):
    """Another run is writing the same file now."""
