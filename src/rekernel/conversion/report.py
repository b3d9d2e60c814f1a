"""What a conversion reports: progress while it runs, a summary at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..plan.plan import Plan

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    target : file or folder written
    files : the files written or taken over, in order
    bytes_written : without what was taken over
    tensors_changed, tensors_kept : counts
    plans : by component; '' for a checkpoint that is not a pipeline
    resumed : files that an earlier run had finished
    skipped : weights in other formats, not copied since they would still be the old ones
    notes : what a configuration beside the weights cannot say of them
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
