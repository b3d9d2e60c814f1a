"""The one exception a caller has to know.

Knows nothing of tensors or files; every other module raises it (or a subclass of it defined there).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """An option that a message names, as its reader types it.

    python : an argument of the function
    flag : of the command
    """

    python: str
    flag: str

    def __str__(self) -> str:
        return self.python


class RekernelError(ValueError):
    """Something the user can correct: the message says what was wrong, where, and what to do.

    Parameters
    ----------
    *parts : str or Option
        The message is all of them, one after the other; an option is named as the caller types it.

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

    def __init__(self, *parts: str | Option) -> None:
        super().__init__(*parts)

    def __str__(self) -> str:
        return "".join(map(str, self.args))

    def on_command_line(self) -> str:
        """The message for somebody who typed a command."""
        return "".join(part.flag if isinstance(part, Option) else str(part) for part in self.args)


class CheckpointError(RekernelError):
    """A checkpoint that cannot be read or written: one line naming the file, the fault and the way out."""


class SeveralCheckpointsError(CheckpointError):
    """A folder with several checkpoints where one is needed."""
