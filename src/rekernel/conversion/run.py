"""One run of a conversion: check everything, stream every file, commit last.

Knows the order of things. Tensors are `stream`'s, files `writer`'s, places `targets`'s, decisions `convert`'s.
Promises: the source is never changed; a destination file appears whole or not at all; the index appears last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoint.atomic_file import FORCE, check_free_space, copy_atomic, write_atomic
from ..checkpoint.header import build_header
from ..checkpoint.pipeline_folder import Pipeline
from ..checkpoint.tensor_source import Checkpoint, TensorSource
from ..checkpoint.variants import split_variant
from ..checkpoint.writer import StreamingWriter
from ..errors import Option, RekernelError
from ..escape import shown_path
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
from .report import Progress, Report
from .streaming import stream
from .transformers_config import rescaled_configs


@dataclass(frozen=True)
class Options:
    """What does not depend on the plan; see `convert` for the meaning of each."""

    dtype: str | None
    max_shard_size: int | None
    resume: bool
    force: bool
    allow_cast: bool
    allow_pickle: bool
    progress: Progress | None


@dataclass
class Job:
    """One checkpoint to write into a folder: opened source, its plan, its files.

    whole : whether the folder is the checkpoint's, so that what else is called like it there has to go
    """

    source: TensorSource
    plan: Plan
    outputs: Outputs
    folder: Path
    whole: bool


@dataclass
class Conversion:
    """The state of one call of `convert`."""

    options: Options
    plans: dict[str, Plan]
    origin: Origin | None = None
    files: list[Path] = field(default_factory=list)
    written: int = 0
    resumed: int = 0
    done: int = 0
    total: int = 0
    rewritten: dict[Path, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def checkpoint(self, fetched: Fetched, target: Path, *, into_folder: bool = False) -> Report:
        """A file to a file, or several files and whatever lies beside them to a folder."""
        source = fetched.path
        with open_source(source, allow_pickle=self.options.allow_pickle) as opened:
            to_file = self.options.max_shard_size is None and not source.is_dir() and opened.kind != "sharded"
            folder, name = (
                file_target(opened, target, into_folder)
                if to_file
                else (folder_target(target, source), opened.path.name)
            )
            refuse_recorded(opened.path, whole=source.is_dir())
            job = self._job(opened, self.plans[""], folder, Path(name).with_suffix(".safetensors").name, not to_file)
            copies, skipped = beside(opened, source, folder) if source.is_dir() else ([], ())
            copies, skipped = fetched.copied(copies), fetched.left or skipped
            if opened.path.name.endswith(".index.json") or len(job.outputs.files) > 1:
                copies = [(a, b) for a, b in copies if b.name != job.outputs.index_name]
            self.rewritten, self.notes = rescaled_configs(copies, self.plans[""])
            self._run([job], copies, opened.files, commit=None)
        return self._report(target if not to_file else folder / name, skipped)

    def pipeline(self, pipeline: Pipeline, fetched: Fetched, target: Path) -> Report:
        """The chosen components converted, everything else copied, model_index.json last."""
        parts = fetched.parts
        folder = folder_target(target, pipeline.path)
        jobs = []
        try:
            for name, path in parts.items():
                opened = open_source(path, allow_pickle=self.options.allow_pickle)
                refuse_recorded(opened.path, whole=True)
                jobs.append(self._job(opened, self.plans[name], folder / name, opened.path.name, True))
            untouched = [f for n, c in pipeline.components.items() if n not in parts for f in c.files]
            others, skipped = split_weights([*pipeline.files], [Path(name) for name in parts])
            read = {path for job in jobs for path in job.source.files}
            skipped += [f for n in parts for f in pipeline.components[n].files if pipeline.path / f not in read]
            skipped += fetched.left
            commit = Path("model_index.json")
            copies = [(pipeline.path / f, folder / f) for f in sorted([*others, *untouched]) if f != commit]
            inputs = [path for job in jobs for path in job.source.files]
            self._run(jobs, copies, inputs, commit=(pipeline.path / commit, folder / commit))
        finally:
            for job in jobs:
                job.source.__exit__(None, None, None)
        return self._report(folder, skipped)

    def _job(self, source: TensorSource, plan: Plan, folder: Path, name: str, whole: bool) -> Job:
        refuse_rescaled(source)
        tensors = output_tensors(source, plan, self.options.dtype)
        return Job(source, plan, arrange(source, tensors, name, self.options.max_shard_size), folder, whole)

    def _run(
        self,
        jobs: list[Job],
        copies: list[tuple[Path, Path]],
        inputs: Sequence[Path],
        commit: tuple[Path, Path] | None,
    ) -> None:
        """Everything but the decisions: check all, then write all, the file that makes it valid last."""
        options = self.options
        marks = [job.folder / job.outputs.index_name for job in jobs if job.outputs.index_name]
        marks += [commit[1]] if commit else []
        targets = [job.folder / file.name for job in jobs for file in job.outputs.files]
        existing = [path for path in [*marks, *targets, *(b for _, b in copies)] if os.path.lexists(path)]
        if existing and not (options.force or options.resume):
            raise RekernelError(
                f"{shown_path(existing[0])}: exists already; pass ",
                FORCE,
                " to replace it, ",
                Option("resume=True", "--resume"),
                " to go on with an interrupted conversion, or another destination",
            )
        stale = _stale(jobs)
        if stale and not options.force:
            raise RekernelError(
                f"{shown_path(stale[0])}: belongs to another conversion, which the new one would be mixed with; pass ",
                FORCE,
                " to replace it, or another destination",
            )
        refuse_inputs([*marks, *targets, *stale, *(b for _, b in copies)], [*inputs, *(a for a, _ in copies)])
        in_folder = bool(marks or copies or len(targets) > 1)
        root = jobs[0].folder if commit is None else commit[1].parent
        self.total = sum(job.outputs.nbytes for job in jobs) + sum(a.stat().st_size for a, _ in copies)
        journal = Journal(root, enabled=in_folder)
        finished = journal.read() if options.resume else {}
        needed = sum(_missing(job, finished, root) for job in jobs) + sum(a.stat().st_size for a, _ in copies)
        check_free_space(next(p for p in (root, *root.absolute().parents) if p.is_dir()), needed)
        with making_folders([root, *(path.parent for path in [*targets, *(b for _, b in copies)])]):
            for path in stale:
                path.unlink()
            for mark in marks:  # while files change under it, the folder must not look whole
                mark.unlink(missing_ok=True)
            for job in jobs:
                with digesting(job.source) as digests:
                    for file in job.outputs.files:
                        self._write(job, file, digests, journal, finished, root)
            for a, b in copies:
                if b in self.rewritten:
                    write_atomic(b, self.rewritten[b], force=options.force or options.resume, inputs=[a, *inputs])
                else:
                    copy_atomic(a, b, force=options.force or options.resume, inputs=inputs)
                self._advance(a.stat().st_size)
                self.files.append(b)
            for job in jobs:
                if job.outputs.index_name:
                    path = job.folder / job.outputs.index_name
                    write_atomic(path, job.outputs.index(job.source), inputs=inputs)
                    self.files.append(path)
            if commit:
                copy_atomic(*commit, inputs=inputs)
                self.files.append(commit[1])
            journal.remove()

    def _write(
        self,
        job: Job,
        file: OutputFile,
        digests: Digests,
        journal: Journal,
        finished: Mapping[str, tuple[int, int]],
        root: Path,
    ) -> None:
        path = job.folder / file.name
        source_metadata = rescaled_metadata(_metadata_of(job.source, file), job.plan.scale)
        recipe = Recipe(
            job.plan, stand_ins(job.source, self.origin), self.options.dtype or "", f"rekernel {__version__}"
        )
        metadata = {**source_metadata, KEY: recipe.to_json()}
        tensors = [(t.change.name, t.dtype, t.change.new_shape) for t in file.tensors]
        if self.options.resume and path.exists():
            final = resolved(metadata[KEY], digests)
            header, _ = build_header(tensors, {**source_metadata, KEY: final})
            if _is_finished(path, header, file.nbytes, journal, finished, root):
                self.resumed += 1
                self._advance(file.nbytes)
                self.files.append(path)
                return
        with StreamingWriter(
            path, tensors, metadata, force=self.options.force or self.options.resume, inputs=job.source.files
        ) as writer:
            stream(job.source, file, writer, allow_cast=self.options.allow_cast, progress=self._advance)
            for i, digest in enumerate(digests):
                writer.replace_placeholder(placeholder(i).encode(), digest.result().sha256.encode())
        journal.add(path)
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


def _metadata_of(source: TensorSource, file: OutputFile) -> dict[str, str]:
    """The metadata of the source file that held the first tensor: shards may differ."""
    metadata = source.metadata
    if isinstance(source, Checkpoint) and file.tensors:
        metadata = source.shard_of(file.tensors[0].change.name).header.metadata
    # transformers takes a file without metadata for PyTorch's, but refuses one whose metadata names no format; the
    # recipe alone would be such.
    return dict(metadata) or {"format": "pt"}


def _is_finished(
    path: Path, header: bytes, nbytes: int, journal: Journal, finished: Mapping[str, tuple[int, int]], root: Path
) -> bool:
    """Whether an earlier run wrote exactly this file and nobody touched it since."""
    if path.stat().st_size != len(header) + nbytes:
        return False
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            return False
    return not journal.enabled or finished.get(path.relative_to(root).as_posix()) == Journal.stamp(path)


def _missing(job: Job, finished: Mapping[str, tuple[int, int]], root: Path) -> int:
    return sum(
        file.nbytes
        for file in job.outputs.files
        if (job.folder / file.name).relative_to(root).as_posix() not in finished
    )


def _stale(jobs: list[Job]) -> list[Path]:
    """Files of an earlier conversion of the same name that the new one does not write: other shards, another index."""
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
