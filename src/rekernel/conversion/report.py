"""Describe the result of a conversion.

Scope: the report, and the type of progress callbacks. Not here: the conversion (see `conversion.run`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..plan.plan import Plan

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """The result of a conversion.

    target : file or folder that was written
    files : files that were written, or kept from an interrupted run, in order
    bytes_written : bytes of new weights, without the files kept from an interrupted run
    tensors_changed, tensors_kept : number of tensors that were rescaled, and that were not
    plans : plan of each component; the name is '' for a single checkpoint
    resumed : number of files kept from an interrupted run
    skipped : weights in other formats, which were not copied since they hold the old values
    notes : what a configuration beside the weights cannot express
    """

    target: Path
    files: tuple[Path, ...]
    bytes_written: int
    tensors_changed: int
    tensors_kept: int
    plans: dict[str, Plan]
    resumed: int = 0
    skipped: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all files on the disk: weights, and what was copied beside them."""
        return sum(path.stat().st_size for path in self.files)
