"""Describe the result of a conversion.

Scope: the report. Not here: the conversion (see `conversion.run`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..escape import shown, shown_path
from ..messages.display import Displayed, Table, notes_table
from ..plan.plan import Plan
from ..text import byte_size, counted, few


@dataclass(frozen=True, repr=False)
class Report(Displayed):
    """The result of a conversion.

    target : file or folder that was written
    files : files that were written, or kept from an interrupted run, in order
    bytes_written : bytes of new weights, without the files kept from an interrupted run
    tensors_changed, tensors_kept : number of tensors that were rescaled, and that were not
    plans : plan of each component; the name is '' for a single checkpoint
    resumed : number of files kept from an interrupted run
    skipped : weights in other formats, which were not copied since they hold the old values
    notes : what a configuration beside the weights cannot express, and rescaled tensors with NaN or infinite values
    part : which part was written aside, such as '3/16'; empty for a whole result
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
    part: str = ""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each file."""
        return tuple(path.stat().st_size for path in self.files)

    @property
    def nbytes(self) -> int:
        """Bytes of all files: weights, and what was copied beside them."""
        return sum(self.sizes)

    def _line(self) -> str:
        files = f"{byte_size(self.nbytes)} in {counted(len(self.files), 'file')}"
        tensors = f"{counted(self.tensors_changed, 'tensor')} rescaled, {self.tensors_kept:,} kept"
        notes = [*self.told(), *(note for plan in self.plans.values() for note in plan.warnings)]
        where = shown_path(self.target) + (f", part {self.part}" if self.part else "")
        return f"{where}: {files}; {tensors}" + (f"; {counted(len(notes), 'note')}" if notes else "")

    def _tables(self) -> Iterator[Table]:
        yield Table(counted(len(self.files), "file"), (), [(shown_path(path),) for path in self.files])
        yield notes_table(self.told())
        for name, plan in self.plans.items():
            for table in plan._tables():
                yield Table(f"{shown(name)}: {table.title}" if name else table.title, table.heads, table.rows)

    def told(self) -> tuple[str, ...]:
        """The notes about the files, without those of the plans: which stay behind, and what a configuration lacks."""
        if not self.skipped:
            return self.notes
        names = few([shown(str(path)) for path in self.skipped], 3)
        return (f"not copied, since these files hold the old weights: {names}", *self.notes)


@dataclass(frozen=True, repr=False)
class StoredReport(Report):
    """The result of a conversion into a store, such as S3: target and files are addresses.

    object_sizes : bytes of each file
    """

    target: str  # type: ignore[assignment]
    files: tuple[str, ...]  # type: ignore[assignment]
    object_sizes: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each file."""
        return self.object_sizes
