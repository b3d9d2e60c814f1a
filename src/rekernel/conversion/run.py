"""Run a conversion: check everything, write every file, write the index last.

Scope: the order of the steps. Not here: tensors (see `conversion.streaming`), files (see `checkpoint.writer`),
destinations (see `conversion.destinations`), options (see `offline`).
Guarantees: the source does not change; every file is written atomically; the index is written last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ..checkpoint.atomic_file import copy_atomic, write_atomic
from ..checkpoint.header import build_header
from ..checkpoint.locked_file import claimed
from ..checkpoint.pipeline_folder import Pipeline
from ..checkpoint.tensor_source import Checkpoint, TensorSource
from ..checkpoint.writer import StreamingWriter
from ..errors import MAX_SHARD_SIZE, RekernelError
from ..escape import shown_path
from ..messages.log import logger
from ..plan.not_finite import not_finite_note
from ..plan.plan import Plan
from ..plan.recipe import KEY, Recipe
from ..planning.guards import refuse_recorded, refuse_rescaled
from ..sources.place import Origin
from ..version import __version__
from .aside import clean, finish, kept_if_useful, place_for, restore
from .destinations import beside, file_target, folder_target, making_folders, split_weights
from .digests import Digests, check_unchanged, digesting, placeholder, resolved, stand_ins
from .downloads import Fetched
from .journal import Journal
from .modelspec import rescaled_metadata
from .options import Options
from .output_files import OutputFile, arrange, output_tensors
from .prepared import Job, Prepared, prepare
from .report import Report
from .shared_blocks import data_at
from .streaming import stream
from .transformers_config import rescaled_configs
from .workers.part import Part
from .workers.parts import PartsFolder, header_of, sizes_of
from .workers.sharing import refuse_unseen, write_all
from .workers.task import WriteTask, Written, remove_partials, size_of

_LOG = logger(__name__)


@dataclass
class Conversion:
    """The state of one call of `offline.convert`."""

    options: Options
    plans: dict[str, Plan]
    origin: Origin | None = None
    copy: Callable[..., None] = copy_atomic
    files: list[Path] = field(default_factory=list)
    written: int = 0
    resumed: int = 0
    done: int = 0
    total: int = 0
    notes: list[str] = field(default_factory=list)
    _parts: PartsFolder | None = None

    def checkpoint(self, fetched: Fetched, target: Path, *, into_folder: bool = False) -> Report:
        """Convert a checkpoint to a file, or to a folder with the other files of the source's folder."""
        source = fetched.path
        with fetched.open(source, allow_pickle=self.options.allow_pickle) as opened:
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
            like = source if source.is_dir() else source.parent if opened.kind == "sharded" else None
            self.write(
                lambda: prepare([job], copies, opened.files, self.options, contents=contents, like=like),
                None if to_file else folder,
            )
        return self._report(target if not to_file else folder / name, skipped)

    def pipeline(self, pipeline: Pipeline, fetched: Fetched, target: Path) -> Report:
        """Convert the chosen components, copy everything else, and write model_index.json last."""
        parts = fetched.parts
        replace = self.options.force or self.options.resume
        folder = folder_target(target, pipeline.path, replace=replace, resumes=True)
        jobs = []
        with ExitStack() as sources:
            for name, path in parts.items():
                opened = sources.enter_context(fetched.open(path, allow_pickle=self.options.allow_pickle))
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
            like = pipeline.path
            self.write(lambda: prepare(jobs, copies, inputs, self.options, commit=commit, like=like), folder)
        return self._report(folder, skipped)

    def _job(self, source: TensorSource, plan: Plan, folder: Path, name: str, whole: bool) -> Job:
        refuse_rescaled(source)
        tensors = output_tensors(source, plan, self.options.dtype)
        return Job(source, plan, arrange(source, tensors, name, self.options.max_shard_size), folder, whole)

    def write(self, prepare: Callable[[], Prepared], folder: Path | None) -> None:
        """Claim the destination and write everything.

        Parameters
        ----------
        prepare : callable () -> Prepared
            Called before anything is written, and again with the claim, since another run may have ended between them.
        folder : Path, optional
            The folder that is the destination; None for a single file.
        """
        if folder is not None:
            restore(folder)
        first = prepare()
        if self.options.part or self.options.finish:
            self._parts = self._parts_folder(first, folder)
        if self.options.part:
            self._write_part(self.options.part, first)
            return
        with (
            making_folders({first.root: first.like}),
            claimed(first.claim, folder=first.journal.enabled),
        ):
            prepared = prepare()
            if prepared.replaces:
                self._replace(prepared)
            else:
                if prepared.journal.enabled and not self.options.resume:
                    clean(prepared.root)
                self._write(prepared)
        if self._parts is not None:
            self._parts.remove()

    def _replace(self, prepared: Prepared) -> None:
        """Write the folder aside, and put it in the place of the old one at the end."""
        place = place_for(prepared.root, prepared.wanted, resume=self.options.resume)
        with kept_if_useful(place):
            staged = prepared.moved(place.to_stage)
            if not self.options.resume:
                staged.journal.start()
            self._write(staged)
            finish(place, prepared.marks, prepared.stale, prepared.wanted)
        self.files = [place.to_root(path) for path in self.files]

    def _write(self, prepared: Prepared) -> None:
        """Write the files. Those that make the result valid come last: the indices, then model_index.json."""
        options, inputs, jobs = self.options, prepared.inputs, prepared.jobs
        replace = options.force or options.resume
        self.total = prepared.nbytes
        if options.resume:
            prepared.journal.read()
        with making_folders(prepared.folders), prepared.journal.kept():
            # Removed first: a reader must not see a complete folder while files change.
            for path in (*prepared.stale, *prepared.marks):
                path.unlink(missing_ok=True)
            self._all_weights(prepared)
            for source, target in prepared.copies:
                if target in prepared.contents:
                    content = prepared.contents[target]
                    write_atomic(target, content, force=replace, inputs=[source, *inputs], like=source)
                else:
                    self.copy(source, target, force=replace, inputs=inputs)
                _LOG.debug("copied: %s", shown_path(target))
                self._advance(source.stat().st_size)
                self.files.append(target)
            for job in jobs:
                if job.outputs.index_name:
                    path = job.folder / job.outputs.index_name
                    write_atomic(path, job.outputs.index(job.source), inputs=inputs, like=job.source.path)
                    self.files.append(path)
            if prepared.commit:
                self.copy(*prepared.commit, inputs=inputs)
                self.files.append(prepared.commit[1])

    def _all_weights(self, prepared: Prepared) -> None:
        """Write the files of weights of all jobs, by the executor if there is one. A pickle is opened here alone."""
        if self._parts is not None:
            self._take_parts(replace(self._parts, root=prepared.root), prepared)
            return
        self.weights_of(
            prepared.jobs,
            lambda job, file, digests: self._weights(job, file, digests, prepared),
            lambda executor, jobs: self._share_out(executor, jobs, prepared),
        )

    def weights_of(
        self,
        jobs: Sequence[Job],
        alone: Callable[[Job, OutputFile, Digests], None],
        shared: Callable[[Executor, Sequence[Job]], None],
    ) -> None:
        """Write each file of weights by `alone`, or those of checkpoints by `shared` if there is an executor."""
        executor, together = self.options.executor, []
        for job in jobs:
            if executor is not None and isinstance(job.source, Checkpoint):
                together.append(job)
                continue
            with digesting(job.source) as digests:
                for file in job.outputs.files:
                    alone(job, file, digests)
        if executor is not None and together:
            shared(executor, together)

    def tasks(self, jobs: Sequence[Job]) -> dict[str, WriteTask]:
        """A task for each file of weights of checkpoints, by its path; placeholders stand for the digests."""
        return {
            str(job.folder / file.name): WriteTask(
                job.source, file, job.folder / file.name, self.metadata(job, file), _read_from(job.source, file),
                self.options.allow_cast,
            )
            for job in jobs if isinstance(job.source, Checkpoint)
            for file in job.outputs.files
        }  # fmt: skip

    def _share_out(self, executor: Executor, jobs: Sequence[Job], prepared: Prepared) -> None:
        """Let an executor write the files of weights."""
        tasks, journal = self.tasks(jobs), prepared.journal
        notes: dict[str, str] = {}

        def finished(name: str, task: WriteTask) -> bool:
            path = Path(name)
            if not (self.options.resume and journal.enabled and path.exists()):
                return False
            if not _is_finished(path, task.header, task.file.nbytes, journal):
                return False
            self.resumed += 1
            self._advance(task.file.nbytes)
            return True

        def done(name: str, written: Written) -> None:
            refuse_unseen(shown_path(name), partial(size_of, Path(name)), written.nbytes)
            journal.add(Path(name))
            _LOG.debug("written: %s, %d bytes", shown_path(name), written.nbytes)
            self.written += written.nbytes
            if written.broken:
                notes[name] = not_finite_note(list(written.broken))
            self._advance(tasks[name].file.nbytes)

        try:
            write_all(executor, tasks, finished=finished, begin=lambda name: journal.expect(Path(name)), done=done)
        except BaseException:
            remove_partials(map(Path, tasks))
            raise
        self.files += map(Path, tasks)
        self.notes += [notes[name] for name in tasks if name in notes]

    def _parts_folder(self, prepared: Prepared, folder: Path | None) -> PartsFolder:
        """Where the parts lie; raise if the result cannot be made in parts."""
        if folder is None or not all(isinstance(job.source, Checkpoint) for job in prepared.jobs):
            raise RekernelError(
                f"{shown_path(prepared.jobs[0].source.path)}: becomes one file, or no safetensors file, and parts "
                f"share out several; pass ", MAX_SHARD_SIZE, " and a folder as target, or convert it without parts",
            )  # fmt: skip
        return PartsFolder.of(prepared.root)

    def _write_part(self, part: Part, prepared: Prepared) -> None:
        """Write the files of one part aside."""
        assert self._parts is not None
        tasks = self.tasks(prepared.jobs)
        self.total = sum(tasks[name].file.nbytes for name in part.share(sizes_of(tasks)))
        with making_folders({self._parts.path: None}):
            for name, written in self._parts.write(part, tasks, self._advance):
                self.files.append(self._parts.file(tasks[name]))
                if written is None:
                    self.resumed += 1
                    continue
                self.written += written.nbytes
                if written.broken:
                    self.notes.append(not_finite_note(list(written.broken)))

    def _take_parts(self, parts: PartsFolder, prepared: Prepared) -> None:
        """Make the files of weights of those that parts have written."""
        tasks, journal = self.tasks(prepared.jobs), prepared.journal
        digests = parts.digests(tasks.values())
        open_tasks = {}
        for name, task in tasks.items():
            header = header_of(task, digests[id(task.source)])
            if self.options.resume and Path(name).exists() and _is_finished(
                Path(name), header, task.file.nbytes, journal
            ):  # fmt: skip
                self.resumed += 1
            else:
                open_tasks[name] = task
        parts.missing(open_tasks)
        for name, task in open_tasks.items():
            journal.expect(Path(name))
            parts.take(task, digests[id(task.source)])
            journal.add(Path(name))
            self.written += Path(name).stat().st_size
        for name, task in tasks.items():
            self.files.append(Path(name))
            self._advance(task.file.nbytes)

    def _weights(self, job: Job, file: OutputFile, digests: Digests, prepared: Prepared) -> None:
        """Write one file of weights, unless an interrupted run has finished this file."""
        path, metadata, start = job.folder / file.name, self.metadata(job, file), data_at(job.source, file)
        tensors = [(t.change.name, t.dtype, t.change.new_shape) for t in file.tensors]
        if self.options.resume and prepared.journal.enabled and path.exists():
            header, _ = build_header(tensors, {**metadata, KEY: resolved(metadata[KEY], digests)}, data_at=start)
            if _is_finished(path, header, file.nbytes, prepared.journal):
                self.resumed += 1
                self._advance(file.nbytes)
                self.files.append(path)
                return
        prepared.journal.expect(path)
        with StreamingWriter(
            path, tensors, metadata, force=self.options.force or self.options.resume, inputs=job.source.files,
            like=_read_from(job.source, file), holes=sum(shard.holes for shard in job.source.shards),
            data_at=start,
        ) as writer:  # fmt: skip
            broken = stream(job.source, file, writer, allow_cast=self.options.allow_cast, progress=self._advance)
            check_unchanged(job.source)
            for i, digest in enumerate(digests):
                writer.replace_placeholder(placeholder(i).encode(), digest.result().sha256.encode())
        prepared.journal.add(path)
        _LOG.debug("written: %s, %d bytes", shown_path(path), writer.nbytes)
        if broken:
            self.notes.append(not_finite_note(broken))
        self.written += writer.nbytes
        self.files.append(path)

    def metadata(self, job: Job, file: OutputFile) -> dict[str, str]:
        """The metadata of one file of weights; placeholders stand for the digests of the source in its recipe."""
        # Weights that stay are still those of the trained resolution to every other program.
        grown = any(change.operators for change in job.plan.changed)
        metadata = rescaled_metadata(_metadata_of(job.source, file), job.plan.scale if grown else 1.0)
        recipe = Recipe(
            job.plan, stand_ins(job.source, self.origin), self.options.dtype or "", f"rekernel {__version__}"
        )
        return {**metadata, KEY: recipe.to_json()}

    def _advance(self, nbytes: int) -> None:
        self.done += nbytes
        if self.options.progress:
            self.options.progress(self.done, self.total)

    def _report(self, target: Path, skipped: Sequence[Path]) -> Report:
        changed = sum(len(plan.changed) for plan in self.plans.values())
        kept = sum(len(plan.changes) for plan in self.plans.values()) - changed
        return Report(
            target, tuple(self.files), self.written, changed, kept, self.plans, self.resumed, tuple(skipped),
            tuple(self.notes), str(self.options.part or ""),
        )  # fmt: skip


def _metadata_of(source: TensorSource, file: OutputFile) -> dict[str, str]:
    """Return the metadata of the source file that held the first tensor, since shards may differ."""
    metadata = source.metadata
    if isinstance(source, Checkpoint) and file.tensors:
        metadata = source.shard_of(file.tensors[0].change.name).header.metadata
    # transformers reads a file without metadata as PyTorch weights, but refuses metadata without a format, as a recipe
    # alone would be.
    return dict(metadata) or {"format": "pt"}


def _read_from(source: TensorSource, file: OutputFile) -> Path:
    """The source file that held the first tensor."""
    if isinstance(source, Checkpoint) and file.tensors:
        return source.shard_of(file.tensors[0].change.name).path
    return source.path


def _is_finished(path: Path, header: bytes, nbytes: int, journal: Journal) -> bool:
    """Whether an earlier run wrote exactly this file, and the file did not change since.

    A file that stands alone has no list, so it is written again.
    """
    if not journal.enabled or path.stat().st_size != len(header) + nbytes:
        return False
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            return False
    return journal.holds(path)
