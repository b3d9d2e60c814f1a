"""Convert in parts, each by a run of its own that knows nothing of the others, such as a task of a SLURM array.

A part writes its share of the files of weights into a hidden folder beside the result, and hashes its share of the
source. The run that finishes puts the digests into the headers, takes over the files, and does all else.
Scope: that folder. Not here: what a file holds (see `conversion.workers.task`), the rest of a conversion (see
`conversion.run`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from ...checkpoint.atomic_file import copy_atomic, sync_folder, write_atomic
from ...checkpoint.locked_file import explained, hidden_beside
from ...checkpoint.shard import Shard
from ...checkpoint.strict_json import read_object
from ...errors import FINISH, RekernelError
from ...escape import shown, shown_path
from ...plan.recipe import KEY
from ...text import counted, few
from ..digests import digest_of, with_digests
from .part import Part
from .task import WriteTask, Written, when_free, write_file

_FOLDER = ".rekernel-parts"
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class PartsFolder:
    """The hidden folder of the parts of one result.

    root : the result, or the folder that it is written to before it takes the result's place
    path : the hidden folder
    """

    root: Path
    path: Path

    @classmethod
    def of(cls, result: Path) -> PartsFolder:
        """The folder that belongs to a result."""
        return cls(result, hidden_beside(result.resolve(), _FOLDER))

    def write(
        self, part: Part, tasks: Mapping[str, WriteTask], progress: Callable[[int], None]
    ) -> Iterator[tuple[str, Written | None]]:
        """Write the files of a part, and hash its share of the source. A file that is there already stays.

        Yields
        ------
        name, Written or None
            What became of each file; None for one that stayed.
        """
        for name in part.share(sizes_of(tasks)):
            target = self.file(tasks[name])
            task = replace(tasks[name], target=target, threads=os.cpu_count() or 1)
            _make(target.parent)
            stays = _begins_with(target, task.header, task.file.nbytes)
            yield name, None if stays else write_file(task)
            progress(task.file.nbytes)
        shards = {str(path): shard for path, shard in self._shards(tasks.values())}
        for path in part.share({path: shard.nbytes for path, shard in shards.items()}):
            entry = {**_facts(shards[path]), "sha256": digest_of(shards[path])}
            _make(self.path)
            text = json.dumps(entry).encode()
            when_free(partial(write_atomic, Path(path), text, force=True))  # the same part may run twice at once

    def digests(self, tasks: Collection[WriteTask]) -> dict[int, list[str]]:
        """The digests of the files of each task's source, by the source's `id`.

        Raises
        ------
        RekernelError
            If a part has not ended, or the source changed since.
        """
        places = list(self._shards(tasks))
        lacking = [shown(shard.path.name) for path, shard in places if not path.is_file()]
        if lacking:
            raise _missing(lacking, "no part has hashed")
        known = {id(shard): _read_digest(path, shard) for path, shard in places}
        return {id(task.source): [known[id(shard)] for shard in task.source.shards] for task in tasks}

    def take(self, task: WriteTask, digests: Sequence[str]) -> None:
        """Put the digests into the header of a part's file, and move the file to its place in the result."""
        assert isinstance(task.target, Path)
        path = self.file(task)
        before = task.header
        after = header_of(task, digests)
        if _begins_with(path, before, task.file.nbytes):
            with explained(path), path.open("r+b") as file:
                file.write(after)
                file.flush()
                os.fsync(file.fileno())
        elif not _begins_with(path, after, task.file.nbytes):
            raise RekernelError(
                f"{shown_path(task.target)}: a part wrote this file with other options, or by another version of "
                f"rekernel; repeat the options of the parts, or run all parts again with these"
            )
        with explained(task.target):
            try:
                path.replace(task.target)
            except OSError:  # another disk
                copy_atomic(path, task.target, force=True)
        sync_folder(task.target.parent)

    def missing(self, tasks: Mapping[str, WriteTask]) -> None:
        """Raise if a file of a part is not there."""
        lacking = [shown(Path(name).name) for name, task in tasks.items() if not self.file(task).is_file()]
        if lacking:
            raise _missing(lacking, "no part has written")

    def remove(self) -> None:
        """Remove the folder, which is no longer needed."""
        with suppress(OSError):
            shutil.rmtree(self.path)

    def file(self, task: WriteTask) -> Path:
        """Where a part writes a file of the result.

        The folder is named after the sizes and times of the source's files. So a part never takes a file for its own
        that was made of a source that has changed since: both have the same header until the digests are in it.
        """
        assert isinstance(task.target, Path)
        state = sha256(json.dumps([_facts(shard) for shard in task.source.shards]).encode()).hexdigest()[:16]
        return self.path / f"files-{state}" / task.target.relative_to(self.root)

    def _shards(self, tasks: Iterable[WriteTask]) -> Iterator[tuple[Path, Shard]]:
        """Every file of the sources, each once, and before it the file that keeps its digest.

        Components of a pipeline may be given in any order, and their files may have the same names. So the file that
        keeps a digest is named after the folder that the component has in the result.
        """
        seen = set()
        for task in tasks:
            assert isinstance(task.target, Path)
            folder = sha256(task.target.parent.relative_to(self.root).as_posix().encode()).hexdigest()[:16]
            for index, shard in enumerate(task.source.shards):
                if id(shard) not in seen:
                    seen.add(id(shard))
                    yield self.path / f"digest-{folder}-{index}.json", shard


def sizes_of(tasks: Mapping[str, WriteTask]) -> dict[str, int]:
    """The bytes of each task's tensors."""
    return {name: task.file.nbytes for name, task in tasks.items()}


def header_of(task: WriteTask, digests: Sequence[str]) -> bytes:
    """The header of a file of weights with the digests of its source."""
    return replace(task, metadata={**task.metadata, KEY: with_digests(task.metadata[KEY], digests)}).header


def _make(folder: Path) -> None:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _read_digest(path: Path, shard: Shard) -> str:
    """The digest that a part has written; raise if the file of the source is another one now."""
    entry = read_object(path, "digest")
    digest = entry.pop("sha256", None)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise RekernelError(f"{shown_path(path)}: no part wrote this file; remove it, and run all parts again")
    if entry != _facts(shard):
        raise RekernelError(f"{shown_path(shard.path)}: changed since a part has hashed the file; run all parts again")
    return digest


def _facts(shard: Shard) -> dict[str, object]:
    return {"file": shard.path.name, "version": shard.version}


def _begins_with(path: Path, header: bytes, nbytes: int) -> bool:
    """Whether a whole file with this header is there: a file appears when its last byte is written."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a link would lead to a file of somebody else
            return False
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == len(header) + nbytes and file.read(len(header)) == header
    except OSError:
        return False


def _missing(names: Sequence[str], what: str) -> RekernelError:
    return RekernelError(
        f"{what} {counted(len(names), 'file')}: {few(names, 3)}; wait for all parts to end, run again those that "
        f"failed, then pass ",
        FINISH,
    )
