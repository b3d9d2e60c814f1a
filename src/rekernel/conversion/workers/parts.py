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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from ...checkpoint.atomic_file import copy_atomic, sync_folder, write_atomic
from ...checkpoint.locked_file import explained, hidden_beside
from ...checkpoint.shard import Shard
from ...checkpoint.strict_json import read_object
from ...checkpoint.tensor_source import Checkpoint
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
        shards = _shards(tasks.values())
        for name in part.share({name: shard.nbytes for name, shard in shards.items()}):
            entry = {**_facts(shards[name]), "sha256": digest_of(shards[name])}
            _make(self.path)
            path, text = self.path / f"{name}.json", json.dumps(entry).encode()
            when_free(partial(write_atomic, path, text, force=True))  # the same part may run twice at once

    def digests(self, sources: Sequence[Checkpoint]) -> dict[int, list[str]]:
        """The digests of each source's files, by the source's `id`.

        Raises
        ------
        RekernelError
            If a part has not ended, or the source changed since.
        """
        found: dict[int, list[str]] = {}
        for number, source in enumerate(sources):
            found[id(source)] = []
            for index, shard in enumerate(source.shards):
                path = self.path / f"{_digest_name(number, index)}.json"
                if not path.is_file():
                    raise _missing([shown(shard.path.name)], "no part has hashed")
                entry = read_object(path, "digest")
                digest = entry.pop("sha256", None)
                if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
                    raise RekernelError(
                        f"{shown_path(path)}: no part wrote this file; remove it, and run all parts again"
                    )
                if entry != _facts(shard):
                    raise RekernelError(
                        f"{shown_path(shard.path)}: changed since a part has hashed the file; run all parts again"
                    )
                found[id(source)].append(digest)
        return found

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
                f"{shown_path(path)}: was written by another version or with other options; run its part again with "
                f"these"
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


def sizes_of(tasks: Mapping[str, WriteTask]) -> dict[str, int]:
    """The bytes of each task's tensors."""
    return {name: task.file.nbytes for name, task in tasks.items()}


def header_of(task: WriteTask, digests: Sequence[str]) -> bytes:
    """The header of a file of weights with the digests of its source."""
    return replace(task, metadata={**task.metadata, KEY: with_digests(task.metadata[KEY], digests)}).header


def _make(folder: Path) -> None:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _shards(tasks: Iterable[WriteTask]) -> dict[str, Shard]:
    """Every file of the sources, by the name under which its digest is kept."""
    return {
        _digest_name(number, index): shard
        for number, source in enumerate(sources_of(tasks))
        for index, shard in enumerate(source.shards)
    }


def sources_of(tasks: Iterable[WriteTask]) -> list[Checkpoint]:
    """The sources of tasks, each once, in order."""
    found = {id(task.source): task.source for task in tasks}
    return list(found.values())


def _digest_name(source: int, index: int) -> str:
    return f"digest-{source}-{index}"


def _facts(shard: Shard) -> dict[str, object]:
    return {"file": shard.path.name, "size": shard.signature[0], "changed_ns": shard.signature[1]}


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
