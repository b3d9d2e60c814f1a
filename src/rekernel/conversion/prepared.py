"""Check a conversion before anything is written, and say what it will write where.

Scope: paths and sizes. Not here: writing (see `conversion.run`), the place of a folder that is replaced (see
`conversion.aside`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint.atomic_file import check_free_space
from ..checkpoint.tensor_source import TensorSource
from ..checkpoint.variants import split_variant
from ..errors import FORCE, RESUME, RekernelError
from ..escape import shown_path
from ..plan.plan import Plan
from .aside import unfinished
from .destinations import refuse_inputs
from .journal import Finished, Journal
from .options import Options
from .output_files import Outputs


@dataclass
class Job:
    """One checkpoint to write into a folder.

    source : the open checkpoint to convert
    plan : plan for the checkpoint
    outputs : files to write
    folder : folder of the files
    whole : whether the folder belongs to the checkpoint, so that other files with its name are removed
    """

    source: TensorSource
    plan: Plan
    outputs: Outputs
    folder: Path
    whole: bool


Copy = tuple[Path, Path]
"""A file and its destination."""


@dataclass(frozen=True)
class Prepared:
    """A conversion after all checks, before anything is written.

    root : folder that contains all destinations
    jobs : checkpoints to write
    copies : files beside the checkpoints, to copy
    contents : new contents of some of these files, by destination
    commit : the copy of model_index.json, which makes a pipeline folder valid; None for a checkpoint
    inputs : files that are read for the weights
    stale : files of another conversion, to remove
    journal : list of finished files
    replaces : whether the folder holds a result that stays whole until the new one is
    like : folder of the source, if it is one
    """

    root: Path
    jobs: Sequence[Job]
    copies: Sequence[Copy]
    contents: Mapping[Path, bytes]
    commit: Copy | None
    inputs: Sequence[Path]
    stale: Sequence[Path]
    journal: Journal
    replaces: bool
    like: Path | None

    @property
    def marks(self) -> list[Path]:
        """The files that make a folder valid: written last, and removed before anything else changes."""
        return _marks(self.jobs, self.commit)

    @property
    def wanted(self) -> list[Path]:
        """All files that are written or removed."""
        copied = [target for _, target in self.copies]
        return [*self.marks, *_targets(self.jobs), *copied, *self.stale]

    @property
    def folders(self) -> dict[Path, Path | None]:
        """The folders of all files, each with the folder of the source whose permissions it gets, if there is one."""
        inner = {parent for path in self.wanted for parent in path.relative_to(self.root).parents}
        made: dict[Path, Path | None] = {}
        for path in sorted(inner):
            pattern = None if self.like is None else self.like / path
            made[self.root / path] = pattern if pattern is not None and pattern.is_dir() else None
        return made

    def moved(self, move: Callable[[Path], Path]) -> Prepared:
        """The same with other destinations, a list of finished files there, and nothing to remove."""
        return replace(
            self,
            root=move(self.root),
            jobs=[replace(job, folder=move(job.folder)) for job in self.jobs],
            copies=[(source, move(target)) for source, target in self.copies],
            contents={move(target): content for target, content in self.contents.items()},
            commit=None if self.commit is None else (self.commit[0], move(self.commit[1])),
            stale=(),
            journal=Journal(move(self.root)),
        )

    @property
    def claim(self) -> Path:
        """What no other run may write meanwhile: the folder, or the only file."""
        return self.root if self.journal.enabled else _targets(self.jobs)[0]

    @property
    def nbytes(self) -> int:
        """Bytes to write, including those that an interrupted run has written."""
        return sum(job.outputs.nbytes for job in self.jobs) + _copied_bytes(self.copies)


def prepare(
    jobs: Sequence[Job],
    copies: Sequence[Copy],
    inputs: Sequence[Path],
    options: Options,
    *,
    contents: Mapping[Path, bytes] | None = None,
    commit: Copy | None = None,
    like: Path | None = None,
) -> Prepared:
    """Check everything that can be checked before anything is written; see `Prepared` for the arguments.

    Raises
    ------
    RekernelError
        If a destination exists or is an input, if files of another conversion are in the way, or if the disk is full.
    """
    marks, targets = _marks(jobs, commit), _targets(jobs)
    destinations = [*marks, *targets, *(target for _, target in copies)]
    existing = [path for path in destinations if os.path.lexists(path)]
    root = jobs[0].folder if commit is None else commit[1].parent
    if existing and not (options.force or options.resume):
        resumed = (RESUME, " to resume an interrupted conversion, ") if jobs else ()
        raise RekernelError(
            f"{shown_path(existing[0])}: exists already; pass ", FORCE, " to replace it, ", *resumed,
            "or another destination",
        )  # fmt: skip
    stale = _stale(jobs)
    enabled = bool(marks or copies or stale or len(targets) > 1)
    left = unfinished(root) if enabled else None
    if stale and not options.force and not (options.resume and left not in (None, root)):
        raise RekernelError(
            f"{shown_path(stale[0])}: belongs to another conversion, whose files would mix with the new ones; pass ",
            FORCE,
            " to replace it, or another destination",
        )
    refuse_inputs([*destinations, *stale], [*inputs, *(source for source, _ in copies)])
    journal = Journal(root, enabled)
    finished = Journal(left).read() if options.resume and left is not None else {}
    needed = sum(_missing(job, finished, root) for job in jobs) + _copied_bytes(copies)
    needed = max(0, needed - sum(shard.holes for job in jobs for shard in job.source.shards))
    if options.on_disk:
        check_free_space(next(p for p in (root, *root.absolute().parents) if p.is_dir()), needed)
    replaces = enabled and left != root and (bool(existing or stale) or (options.resume and left is not None))
    return Prepared(root, jobs, copies, contents or {}, commit, inputs, stale, journal, replaces, like)


def _marks(jobs: Sequence[Job], commit: Copy | None) -> list[Path]:
    """List the files that make a folder valid. They are written last, and removed before anything else changes."""
    marks = [job.folder / job.outputs.index_name for job in jobs if job.outputs.index_name]
    return [*marks, commit[1]] if commit else marks


def _targets(jobs: Sequence[Job]) -> list[Path]:
    return [job.folder / file.name for job in jobs for file in job.outputs.files]


def _copied_bytes(copies: Sequence[Copy]) -> int:
    return sum(source.stat().st_size for source, _ in copies)


def _missing(job: Job, finished: Mapping[str, Finished], root: Path) -> int:
    return sum(
        file.nbytes
        for file in job.outputs.files
        if (job.folder / file.name).relative_to(root).as_posix() not in finished
    )


def _stale(jobs: Sequence[Job]) -> list[Path]:
    """List files of an earlier conversion with the same name that the new one does not write, such as other shards."""
    stale = []
    for job in jobs:
        if not job.whole:
            continue
        written = {job.outputs.index_name, *(file.name for file in job.outputs.files)}
        base, variant = map(re.escape, split_variant(job.outputs.stem))
        count = r"(-\d{5}-of-\d{5})?"
        pattern = re.compile(
            rf"{base}({variant}{count}|{count}{variant})\.safetensors"
            rf"|{base}({variant}\.safetensors\.index|\.safetensors\.index{variant})\.json"
        )
        present = sorted(job.folder.iterdir()) if job.folder.is_dir() else []
        stale += [path for path in present if pattern.fullmatch(path.name) and path.name not in written]
    return stale
