"""Run a conversion: check everything, write every file, write the index last.

Scope: the order of the steps. Not here: tensors (see `conversion.streaming`), files (see `checkpoint.writer`),
destinations (see `conversion.destinations`), options (see `offline`).
Guarantees: the source does not change; every file is written atomically; the index is written last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoint.atomic_file import check_free_space, copy_atomic, write_atomic
from ..checkpoint.header import build_header
from ..checkpoint.locked_file import claimed
from ..checkpoint.pipeline_folder import Pipeline
from ..checkpoint.tensor_source import Checkpoint, TensorSource
from ..checkpoint.variants import split_variant
from ..checkpoint.writer import StreamingWriter
from ..errors import FORCE, RESUME, RekernelError
from ..escape import shown_path
from ..messages.log import logger
from ..messages.progress_bar import Progress
from ..plan.not_finite import not_finite_note
from ..plan.plan import Plan
from ..plan.recipe import KEY, Recipe
from ..planning.guards import refuse_recorded, refuse_rescaled
from ..sources.opening import open_source
from ..sources.place import Origin
from ..version import __version__
from .destinations import beside, file_target, folder_target, making_folders, refuse_inputs, split_weights
from .digests import Digests, digesting, placeholder, resolved, stand_ins
from .downloads import Fetched
from .journal import Journal
from .modelspec import rescaled_metadata
from .output_files import OutputFile, Outputs, arrange, output_tensors
from .report import Report
from .streaming import stream
from .transformers_config import rescaled_configs

_LOG = logger(__name__)


@dataclass(frozen=True)
class Options:
    """The options of a conversion that do not depend on the plan, as documented in `offline.convert`."""

    dtype: str | None
    max_shard_size: int | None
    resume: bool
    force: bool
    allow_cast: bool
    allow_pickle: bool
    progress: Progress | None


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
    finished : files that an interrupted run finished, from the journal
    """

    root: Path
    jobs: Sequence[Job]
    copies: Sequence[Copy]
    contents: Mapping[Path, bytes]
    commit: Copy | None
    inputs: Sequence[Path]
    stale: Sequence[Path]
    journal: Journal
    finished: Mapping[str, tuple[int, int]]

    @property
    def claim(self) -> Path:
        """What no other run may write meanwhile: the folder, or the only file."""
        return self.root if self.journal.enabled else _targets(self.jobs)[0]

    @property
    def nbytes(self) -> int:
        """Bytes to write, including those that an interrupted run has written."""
        return sum(job.outputs.nbytes for job in self.jobs) + _copied_bytes(self.copies)


@dataclass
class Conversion:
    """The state of one call of `offline.convert`."""

    options: Options
    plans: dict[str, Plan]
    origin: Origin | None = None
    files: list[Path] = field(default_factory=list)
    written: int = 0
    resumed: int = 0
    done: int = 0
    total: int = 0
    notes: list[str] = field(default_factory=list)

    def checkpoint(self, fetched: Fetched, target: Path, *, into_folder: bool = False) -> Report:
        """Convert a checkpoint to a file, or to a folder with the other files of the source's folder."""
        source = fetched.path
        with open_source(source, allow_pickle=self.options.allow_pickle) as opened:
            to_file = self.options.max_shard_size is None and not source.is_dir() and opened.kind != "sharded"
            replace = self.options.force or self.options.resume
            folder, name = (
                file_target(opened, target, into_folder)
                if to_file
                else (folder_target(target, source, replace=replace, resumes=True), opened.path.name)
            )
            refuse_recorded(opened.path, whole=source.is_dir())
            job = self._job(opened, self.plans[""], folder, Path(name).with_suffix(".safetensors").name, not to_file)
            copies, skipped = beside(opened, source, folder) if source.is_dir() else ([], ())
            copies, skipped = fetched.copied(copies), fetched.left or skipped
            if opened.path.name.endswith(".index.json") or len(job.outputs.files) > 1:
                copies = [(a, b) for a, b in copies if b.name != job.outputs.index_name]
            contents, self.notes = rescaled_configs(copies, self.plans[""])
            self.write(lambda: prepare([job], copies, opened.files, self.options, contents=contents))
        return self._report(target if not to_file else folder / name, skipped)

    def pipeline(self, pipeline: Pipeline, fetched: Fetched, target: Path) -> Report:
        """Convert the chosen components, copy everything else, and write model_index.json last."""
        parts = fetched.parts
        replace = self.options.force or self.options.resume
        folder = folder_target(target, pipeline.path, replace=replace, resumes=True)
        jobs = []
        with ExitStack() as sources:
            for name, path in parts.items():
                opened = sources.enter_context(open_source(path, allow_pickle=self.options.allow_pickle))
                refuse_recorded(opened.path, whole=True)
                jobs.append(self._job(opened, self.plans[name], folder / name, opened.path.name, True))
            untouched = [f for n, c in pipeline.components.items() if n not in parts for f in c.files]
            others, skipped = split_weights([*pipeline.files], [Path(name) for name in parts])
            inputs = [path for job in jobs for path in job.source.files]
            skipped += [f for n in parts for f in pipeline.components[n].files if pipeline.path / f not in inputs]
            skipped += fetched.left
            index = Path("model_index.json")
            copies = [(pipeline.path / f, folder / f) for f in sorted([*others, *untouched]) if f != index]
            commit = (pipeline.path / index, folder / index)
            self.write(lambda: prepare(jobs, copies, inputs, self.options, commit=commit))
        return self._report(folder, skipped)

    def _job(self, source: TensorSource, plan: Plan, folder: Path, name: str, whole: bool) -> Job:
        refuse_rescaled(source)
        tensors = output_tensors(source, plan, self.options.dtype)
        return Job(source, plan, arrange(source, tensors, name, self.options.max_shard_size), folder, whole)

    def write(self, prepare: Callable[[], Prepared]) -> None:
        """Claim the destination and write everything.

        Parameters
        ----------
        prepare : callable () -> Prepared
            Called before anything is written, and again with the claim, since another run may have ended between them.
        """
        first = prepare()
        with making_folders([first.root]), claimed(first.claim, folder=first.journal.enabled):
            self._write(prepare())

    def _write(self, prepared: Prepared) -> None:
        """Write the files. Those that make the result valid come last: the indices, then model_index.json."""
        options, inputs, jobs = self.options, prepared.inputs, prepared.jobs
        marks, targets = _marks(jobs, prepared.commit), _targets(jobs)
        replace = options.force or options.resume
        self.total = prepared.nbytes
        folders = [path.parent for path in [*targets, *(target for _, target in prepared.copies)]]
        with making_folders(folders):
            for path in prepared.stale:
                path.unlink()
            for mark in marks:  # removed first: a reader must not see a complete folder while files change
                mark.unlink(missing_ok=True)
            for job in jobs:
                with digesting(job.source) as digests:
                    for file in job.outputs.files:
                        self._weights(job, file, digests, prepared)
            for source, target in prepared.copies:
                if target in prepared.contents:
                    write_atomic(target, prepared.contents[target], force=replace, inputs=[source, *inputs])
                else:
                    copy_atomic(source, target, force=replace, inputs=inputs)
                _LOG.debug("copied: %s", shown_path(target))
                self._advance(source.stat().st_size)
                self.files.append(target)
            for job in jobs:
                if job.outputs.index_name:
                    path = job.folder / job.outputs.index_name
                    write_atomic(path, job.outputs.index(job.source), inputs=inputs)
                    self.files.append(path)
            if prepared.commit:
                copy_atomic(*prepared.commit, inputs=inputs)
                self.files.append(prepared.commit[1])
            prepared.journal.remove()

    def _weights(self, job: Job, file: OutputFile, digests: Digests, prepared: Prepared) -> None:
        """Write one file of weights, unless an interrupted run has finished this file."""
        path = job.folder / file.name
        # Weights that stay are still those of the trained resolution to every other program.
        grown = any(change.operators for change in job.plan.changed)
        source_metadata = rescaled_metadata(_metadata_of(job.source, file), job.plan.scale if grown else 1.0)
        recipe = Recipe(
            job.plan, stand_ins(job.source, self.origin), self.options.dtype or "", f"rekernel {__version__}"
        )
        metadata = {**source_metadata, KEY: recipe.to_json()}
        tensors = [(t.change.name, t.dtype, t.change.new_shape) for t in file.tensors]
        if self.options.resume and path.exists():
            final = resolved(metadata[KEY], digests)
            header, _ = build_header(tensors, {**source_metadata, KEY: final})
            if _is_finished(path, header, file.nbytes, prepared):
                self.resumed += 1
                self._advance(file.nbytes)
                self.files.append(path)
                return
        with StreamingWriter(
            path, tensors, metadata, force=self.options.force or self.options.resume, inputs=job.source.files
        ) as writer:
            broken = stream(job.source, file, writer, allow_cast=self.options.allow_cast, progress=self._advance)
            for i, digest in enumerate(digests):
                writer.replace_placeholder(placeholder(i).encode(), digest.result().sha256.encode())
        prepared.journal.add(path)
        _LOG.debug("written: %s, %d bytes", shown_path(path), writer.nbytes)
        if broken:
            self.notes.append(not_finite_note(broken))
        self.written += writer.nbytes
        self.files.append(path)

    def _advance(self, nbytes: int) -> None:
        self.done += nbytes
        if self.options.progress:
            self.options.progress(self.done, self.total)

    def _report(self, target: Path, skipped: Sequence[Path]) -> Report:
        changed = sum(len(plan.changed) for plan in self.plans.values())
        kept = sum(len(plan.changes) for plan in self.plans.values()) - changed
        return Report(
            target, tuple(self.files), self.written, changed, kept, self.plans, self.resumed, tuple(skipped),
            tuple(self.notes),
        )  # fmt: skip


def prepare(
    jobs: Sequence[Job],
    copies: Sequence[Copy],
    inputs: Sequence[Path],
    options: Options,
    *,
    contents: Mapping[Path, bytes] | None = None,
    commit: Copy | None = None,
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
    if existing and not (options.force or options.resume):
        raise RekernelError(
            f"{shown_path(existing[0])}: exists already; pass ",
            FORCE,
            " to replace it, ",
            RESUME,
            " to resume an interrupted conversion, or another destination",
        )
    stale = _stale(jobs)
    if stale and not options.force:
        raise RekernelError(
            f"{shown_path(stale[0])}: belongs to another conversion, whose files would mix with the new ones; pass ",
            FORCE,
            " to replace it, or another destination",
        )
    refuse_inputs([*destinations, *stale], [*inputs, *(source for source, _ in copies)])
    root = jobs[0].folder if commit is None else commit[1].parent
    journal = Journal(root, enabled=bool(marks or copies or len(targets) > 1))
    finished = journal.read() if options.resume else {}
    needed = sum(_missing(job, finished, root) for job in jobs) + _copied_bytes(copies)
    check_free_space(next(p for p in (root, *root.absolute().parents) if p.is_dir()), needed)
    return Prepared(root, jobs, copies, contents or {}, commit, inputs, stale, journal, finished)


def _marks(jobs: Sequence[Job], commit: Copy | None) -> list[Path]:
    """List the files that make a folder valid. They are written last, and removed before anything else changes."""
    marks = [job.folder / job.outputs.index_name for job in jobs if job.outputs.index_name]
    return [*marks, commit[1]] if commit else marks


def _targets(jobs: Sequence[Job]) -> list[Path]:
    return [job.folder / file.name for job in jobs for file in job.outputs.files]


def _copied_bytes(copies: Sequence[Copy]) -> int:
    return sum(source.stat().st_size for source, _ in copies)


def _metadata_of(source: TensorSource, file: OutputFile) -> dict[str, str]:
    """Return the metadata of the source file that held the first tensor, since shards may differ."""
    metadata = source.metadata
    if isinstance(source, Checkpoint) and file.tensors:
        metadata = source.shard_of(file.tensors[0].change.name).header.metadata
    # transformers reads a file without metadata as PyTorch weights, but refuses metadata without a format, as a recipe
    # alone would be.
    return dict(metadata) or {"format": "pt"}


def _is_finished(path: Path, header: bytes, nbytes: int, prepared: Prepared) -> bool:
    """Whether an earlier run wrote exactly this file, and the file did not change since."""
    if path.stat().st_size != len(header) + nbytes:
        return False
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            return False
    name = path.relative_to(prepared.root).as_posix()
    return not prepared.journal.enabled or prepared.finished.get(name) == Journal.stamp(path)


def _missing(job: Job, finished: Mapping[str, tuple[int, int]], root: Path) -> int:
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
