"""Run a conversion whose result goes into a store, such as S3: write every object, write the index last.

Scope: the order of the steps for a store. Not here: what is written (see `conversion.run`, whose decisions are taken
over), one object (see `sources.store_object`).
Guarantees: the source does not change; every object appears whole or not at all; the index is written last. A store
has no locks and no step that exchanges two folders: a run does not notice another one that writes there, and objects
that are replaced are replaced one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..checkpoint.header import build_header
from ..checkpoint.shard_index import INDEX_NAME
from ..errors import RekernelError
from ..escape import shown_path
from ..messages.log import logger
from ..plan.not_finite import not_finite_note
from ..plan.plan import Plan
from ..plan.recipe import KEY
from ..sources.opening import stand_in_of
from ..sources.store_address import StoreAddress
from ..sources.store_client import StoreError, info_of, opened_store, remove, shown_address
from ..sources.store_file import PIECE, StoreFile
from ..sources.store_object import StoreObject, abandoned, put
from ..sources.store_place import listed
from .digests import Digests, resolved
from .downloads import Fetched
from .options import Options
from .output_files import OutputFile
from .prepared import Copy, Job, Prepared
from .report import StoredReport
from .run import Conversion
from .shared_blocks import data_at
from .store_journal import StoreJournal
from .workers.sharing import refuse_unseen, write_all
from .workers.task import WriteTask, Written, write_object

_LOG = logger(__name__)
_BUCKETS = ("s3", "s3a", "gs", "gcs")


def convert_to_store(
    fetched: Fetched, target: StoreAddress, plans: dict[str, Plan], options: Options, *, into_folder: bool
) -> StoredReport:
    """Convert a checkpoint or a pipeline, and write the result to an address in a store.

    Parameters
    ----------
    fetched : Fetched
        The source, on this disk or in a store.
    target : StoreAddress
        An object for a file, otherwise a folder.
    into_folder : bool
        Whether `target` is a folder that a file goes into.

    Raises
    ------
    RekernelError
        If an object exists already and neither `force` nor `resume` is set, if the target is in the source, or if the
        store fails. The object that was being written is not there then.
    """
    if options.part or options.finish:
        raise RekernelError(
            f"{shown_address(target)}: parts are written to a disk that all runs share; pass a path there, or let an "
            f"executor write to the store"
        )
    source, there = fetched.path, info_of(target)
    _check_bucket(target)
    to_file = options.max_shard_size is None and not source.is_dir() and not INDEX_NAME.fullmatch(source.name)
    is_folder = there is not None and there.get("type") == "directory"
    into = into_folder or is_folder or not target.name
    pipeline = fetched.pipeline()
    with stand_in_of(target) as root:
        folder = target if into or not to_file else target.parent
        stand_in = root / target.name if folder is target else root
        run = StoreConversion(
            replace(options, on_disk=False), plans, fetched.origin, folder=folder, fetched=fetched, stand_in=stand_in
        )
        if to_file:
            stand_in.mkdir(exist_ok=True)
            name = source.with_suffix(".safetensors").name if into else target.name
            run.mark_existing([name] if info_of(folder / name) is not None else [])
            report = run.checkpoint(fetched, stand_in if into else stand_in / name, into_folder=into)
        else:
            run.refuse_overlap(fetched)
            if there is not None and not is_folder:
                stand_in.touch()
            else:
                stand_in.mkdir(exist_ok=True)
                run.mark_existing(listed(target) if is_folder or into_folder else ())
            report = (
                run.checkpoint(fetched, stand_in) if pipeline is None else run.pipeline(pipeline, fetched, stand_in)
            )
    return StoredReport(
        str(folder / run.only_name if to_file else target), tuple(str(folder / name) for name in run.sizes),
        report.bytes_written, report.tensors_changed, report.tensors_kept, report.plans, report.resumed, report.skipped,
        report.notes, object_sizes=tuple(run.sizes.values()),
    )  # fmt: skip


@dataclass
class StoreConversion(Conversion):
    """The state of one conversion into a store.

    The paths of all destinations lie in a stand-in folder, in which an empty file stands for each object that exists.

    folder : address that `stand_in` stands for
    sizes : size of every object that was written, or kept from an interrupted run, by name
    """

    folder: StoreAddress = field(kw_only=True)
    fetched: Fetched = field(kw_only=True)
    stand_in: Path = field(kw_only=True)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def only_name(self) -> str:
        """Name of the only object."""
        [name] = self.sizes
        return name

    def mark_existing(self, names: Iterable[str]) -> None:
        """Make the files that stand for existing objects."""
        for name in names:
            path = self.stand_in / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def refuse_overlap(self, fetched: Fetched) -> None:
        """Raise if the target is the folder of the source, inside it, or around it."""
        if fetched.place is None:
            return
        whole = fetched.path.is_dir()
        source, target = _place_of(fetched.place.address), _place_of(self.folder)
        where = shown_address(self.folder)
        if source == target:
            raise RekernelError(
                f"{where}: is the folder of the source, which a conversion never changes; pass another folder"
            )
        if whole and _inside(target, source):
            raise RekernelError(f"{where}: lies inside the source; pass a folder outside the source")
        if whole and _inside(source, target):
            raise RekernelError(
                f"{where}: holds the source, {shown_address(fetched.place.address)}; pass a new folder in it or "
                f"elsewhere"
            )

    def write(self, prepare: Callable[[], Prepared], folder: Path | None) -> None:
        """Check everything, and write all objects. Those that make the result valid come last."""
        prepared = prepare()
        self._refuse_inputs(prepared)
        journal = StoreJournal(self.folder, prepared.journal.enabled)
        if self.options.resume:
            journal.read()
            abandoned(self.folder, {self._name(path) for path in prepared.wanted})
        self.total = prepared.nbytes
        # Removed first: a reader must not see a complete folder while objects change.
        for path in (*prepared.stale, *prepared.marks):
            if path.exists():
                remove(self._address(path))
        if not self.options.resume:
            journal.end()  # the list of another run
        self.weights_of(
            prepared.jobs,
            lambda job, file, digests: self._object(job, file, digests, journal),
            lambda executor, jobs: self._share_objects(executor, jobs, journal),
        )
        for copy in prepared.copies:
            self._copy(copy, prepared.contents.get(copy[1]), journal)
        for job in prepared.jobs:
            if job.outputs.index_name:
                self._put(job.folder / job.outputs.index_name, job.outputs.index(job.source))
        if prepared.commit:
            self._copy(prepared.commit, None, journal)
        journal.end()

    def _object(self, job: Job, file: OutputFile, digests: Digests, journal: StoreJournal) -> None:
        """Write one file of weights, unless an interrupted run has finished this object."""
        path, metadata = job.folder / file.name, self.metadata(job, file)
        metadata = {**metadata, KEY: resolved(metadata[KEY], digests)}
        tensors = [(t.change.name, t.dtype, t.change.new_shape) for t in file.tensors]
        address, name = self._address(path), self._name(path)
        header, _ = build_header(tensors, metadata, data_at=data_at(job.source, file))
        made_from, nbytes = _made_from(header), len(header) + file.nbytes
        if self.options.resume and journal.holds(name, made_from):
            self.resumed += 1
            self._advance(file.nbytes)
            self._done(path, nbytes)
            return
        journal.forget(name)
        broken = write_object(
            job.source, file, address, metadata, force=self._replaces, allow_cast=self.options.allow_cast,
            progress=self._advance,
        )  # fmt: skip
        journal.add(name, made_from)
        if broken:
            self.notes.append(not_finite_note(broken))
        self.written += nbytes
        self._done(path, nbytes)

    def _share_objects(self, executor: Executor, jobs: Sequence[Job], journal: StoreJournal) -> None:
        """Let an executor write the files of weights."""
        tasks = {
            name: replace(task, target=self._address(Path(name))) for name, task in self.tasks(jobs).items()
        }  # fmt: skip
        headers: dict[str, bytes] = {}
        sizes: dict[str, int] = {}
        notes: dict[str, str] = {}

        def finished(name: str, task: WriteTask) -> bool:
            headers[name] = task.header
            sizes[name] = len(headers[name]) + task.file.nbytes
            if not (self.options.resume and journal.holds(self._name(Path(name)), _made_from(headers[name]))):
                return False
            self.resumed += 1
            self._advance(task.file.nbytes)
            return True

        def begin(name: str) -> None:
            journal.forget(self._name(Path(name)))

        def done(name: str, written: Written) -> None:
            address = self._address(Path(name))
            refuse_unseen(shown_address(address), lambda: (info_of(address) or {}).get("size"), sizes[name], lag=0)
            journal.add(self._name(Path(name)), _made_from(headers[name]))
            if written.broken:
                notes[name] = not_finite_note(list(written.broken))
            self.written += sizes[name]
            self._advance(tasks[name].file.nbytes)

        write_all(executor, tasks, finished=finished, begin=begin, done=done)
        for name in tasks:
            self._done(Path(name), sizes[name])
        self.notes += [notes[name] for name in tasks if name in notes]

    def _copy(self, copy: Copy, content: bytes | None, journal: StoreJournal) -> None:
        """Copy a file beside the weights, or write its new content."""
        source, target = copy
        name, remote = self._name(target), None
        if content is not None:
            made_from, size = hashlib.sha256(content).hexdigest(), len(content)
        elif (remote := self.fetched.remote(source)) is not None:
            made_from, size = " ".join(remote.version), remote.nbytes
        else:
            status = source.stat()
            made_from, size = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}", status.st_size
        if not (self.options.resume and journal.holds(name, made_from)):
            if content is not None:
                put(self._address(target), content, force=self._replaces)
            else:
                send_file(source if remote is None else remote, size, self._address(target), force=self._replaces)
            if size > PIECE:  # a small object takes as long as the list
                journal.add(name, made_from)
        self._advance(source.stat().st_size)
        self._done(target, size)

    def _put(self, path: Path, data: bytes) -> None:
        put(self._address(path), data, force=self._replaces)
        self._done(path, len(data))

    def _done(self, path: Path, nbytes: int) -> None:
        _LOG.debug("written: %s", shown_address(self._address(path)))
        self.files.append(path)
        self.sizes[self._name(path)] = nbytes

    @property
    def _replaces(self) -> bool:
        return self.options.force or self.options.resume

    def _name(self, path: Path) -> str:
        return path.relative_to(self.stand_in).as_posix()

    def _address(self, path: Path) -> StoreAddress:
        return self.folder / self._name(path)

    def _refuse_inputs(self, prepared: Prepared) -> None:
        """Raise if an object to replace or remove is also an input."""
        place = self.fetched.place
        if place is None:
            return
        inputs = [*prepared.inputs, *(source for source, _ in prepared.copies)]
        read = {_place_of(place.address / path.relative_to(place.root).as_posix()) for path in inputs}
        for path in prepared.wanted:
            if _place_of(self._address(path)) in read:
                raise RekernelError(
                    f"{shown_address(self._address(path))}: is also an input file; give the result another name."
                )


def send_file(source: Path | StoreFile, size: int, address: StoreAddress, *, force: bool) -> None:
    """Copy a file of any size, from this disk or from a store, through memory of bounded size."""
    with StoreObject(address, force=force) as target:
        target.resize(size)
        position = 0
        for piece in source.pieces() if isinstance(source, StoreFile) else _pieces(source):
            target.write_at(position, memoryview(piece))
            position += len(piece)
        if position != size:
            where = shown_path(source) if isinstance(source, Path) else shown_address(source.address)
            raise StoreError(f"{where}: changed while it was copied ({size} bytes, then {position}); try again.")


def _made_from(header: bytes) -> str:
    """What the journal says of a file of weights: the digest of its header, which tells the source and the plan."""
    return hashlib.sha256(header).hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _check_bucket(target: StoreAddress) -> None:
    """Raise if the bucket is missing, before anything is computed. A store may not permit the question."""
    if target.protocol not in _BUCKETS:
        return
    scheme, _, rest = target.url.partition("://")
    bucket = StoreAddress(f"{scheme}://{rest.partition('/')[0]}")
    try:
        found = info_of(bucket)
    except StoreError:
        return
    if found is None:
        raise StoreError(f"{shown_address(bucket)}: no such bucket; make it first, or check the name.")


def _place_of(address: StoreAddress) -> tuple[str, str]:
    """Kind of store and path, equal for two addresses of one object."""
    fs, path = opened_store(address)
    return type(fs).__name__, path.strip("/")


def _inside(inner: tuple[str, str], outer: tuple[str, str]) -> bool:
    return inner[0] == outer[0] and (not outer[1] or inner[1].startswith(f"{outer[1]}/"))
