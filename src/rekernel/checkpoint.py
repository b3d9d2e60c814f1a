"""Checkpoints opened for reading: one file, a sharded set with its index, the components of a pipeline folder.

Knows headers, indices, folders and plain reads; nothing of arrays or of what a tensor means. Nothing is mapped into
memory: a file that shrinks under a map kills the process, a plain read comes back short and gets a message.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from .escape import shown, shown_path
from .header import (
    ALLOW_PICKLE,
    MAX_HEADER,
    CheckpointError,
    Header,
    TensorInfo,
    foreign_format,
    is_pickle,
    open_regular,
    parse_header,
    read_header_from,
    strict_json,
)

StrPath = str | os.PathLike[str]
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_INDEX = re.compile(r".+\.safetensors\.index(\.[\w-]+)?\.json")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}(\.[\w-]+)?\.safetensors")
_SKIPPED_FOLDERS = frozenset({".git", ".cache"})  # what git and the Hub's client keep for themselves


class TensorSource(Protocol):
    """Anything whose tensors can be listed and read one at a time."""

    @property
    def path(self) -> Path:
        """What was opened."""

    @property
    def kind(self) -> str:
        """'file', 'sharded' or 'pickle'."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read: none of them may be a destination."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors, in the order in which reading them is sequential."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """`__metadata__`; empty where the format has none."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The safetensors files behind it; empty for a pickle."""

    def read(self, name: str) -> bytearray:
        """The tensor's bytes, little-endian, C order."""

    def read_range(self, name: str, start: int, stop: int) -> bytearray:
        """Those of its bytes; safe to call from several threads."""

    def send_range(self, name: str, start: int, stop: int, target: int, position: int) -> int:
        """Bytes of the same that the kernel copied to `position` of the open file `target`; the rest is to be read."""

    def __iter__(self) -> Iterator[str]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Shard:
    """One safetensors file; `signature` is what its size, time and inode were when its header was read."""

    path: Path
    header: Header
    signature: tuple[int, int, int, int]


@dataclass(eq=False)
class Checkpoint:
    """An open safetensors checkpoint; closing it (or leaving its `with` block) closes its files.

    kind : 'file' or 'sharded'
    shards : in the order of their file names; one for a file
    index : the index as it was read, with its own metadata; None for a file
    tensors : of all shards, shard after shard in file order; offsets are those within the shard
    metadata : of all shards together, the first shard's value where two differ
    """

    path: Path
    kind: str
    shards: tuple[Shard, ...]
    index: dict[str, object] | None = None
    tensors: dict[str, TensorInfo] = field(init=False)
    metadata: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.tensors, self.metadata = {}, {}
        self._shard_of: dict[str, Shard] = {}
        self._open: dict[Path, int] = {}
        self._opening = threading.Lock()
        for shard in self.shards:
            self.tensors.update(shard.header.tensors)
            self._shard_of.update(dict.fromkeys(shard.header.tensors, shard))
            self.metadata = shard.header.metadata | self.metadata

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards, and the index if there is one."""
        shards = tuple(shard.path for shard in self.shards)
        return shards if self.index is None else (self.path, *shards)

    def shard_of(self, name: str) -> Shard:
        """The file that holds tensor `name`."""
        if name not in self._shard_of:
            raise CheckpointError(f"{shown_path(self.path)}: no tensor {shown(name)}, among {len(self.tensors)}.")
        return self._shard_of[name]

    def read(self, name: str) -> bytearray:
        """The bytes of tensor `name`, in memory of their own."""
        return self.read_range(name, 0, self.shard_of(name).header.tensors[name].nbytes)

    def read_range(self, name: str, start: int, stop: int) -> bytearray:
        """Bytes `start` to `stop` of tensor `name`; safe to call from several threads."""
        shard = self.shard_of(name)
        info = shard.header.tensors[name]
        if not 0 <= start <= stop <= info.nbytes:
            raise CheckpointError(
                f"{shown_path(shard.path)}: bytes {start} to {stop} lie outside tensor {shown(name)} of {info.nbytes}."
            )
        data = bytearray(stop - start)
        if not data:
            return data
        fd, offset, view = self._descriptor(shard), shard.header.data_start + info.start + start, memoryview(data)
        while view:
            try:
                done = _read_at(fd, view, offset)
            except OSError as error:
                raise CheckpointError(f"{shown_path(shard.path)}: tensor {shown(name)}: {error.strerror}.") from None
            if not done:
                raise CheckpointError(
                    f"{shown_path(shard.path)}: cut short while it was read, at tensor {shown(name)}."
                )
            offset, view = offset + done, view[done:]
        # Looked at after reading, so that a change before it and during it both show.
        _check_unchanged(shard)
        return data

    def check_unchanged(self) -> None:
        """Raise where a file is no longer what was opened."""
        for shard in self.shards:
            _check_unchanged(shard)

    def send_range(self, name: str, start: int, stop: int, target: int, position: int) -> int:
        """Let the kernel copy bytes `start` to `stop` of tensor `name` to `position` of the open file `target`.

        Returns how many it copied: fewer than asked, down to 0, where the system cannot (and on a full disk, which
        plain writing will report).
        """
        shard, sent = self.shard_of(name), 0
        if not hasattr(os, "copy_file_range"):
            return sent
        fd, offset = self._descriptor(shard), shard.header.data_start + shard.header.tensors[name].start + start
        with suppress(OSError):
            while done := os.copy_file_range(fd, target, stop - start - sent, offset + sent, position + sent):
                sent += done
        _check_unchanged(shard)
        return sent

    def _descriptor(self, shard: Shard) -> int:
        with self._opening:
            if shard.path not in self._open:
                fd = open_regular(shard.path)
                if _signature(os.fstat(fd)) != shard.signature:
                    os.close(fd)
                    raise _changed(shard)
                self._open[shard.path] = fd
            return self._open[shard.path]

    def close(self) -> None:
        """Close the files; reading again reopens them."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()


def open_checkpoint(
    path: StrPath, *, allow_pickle: bool = False, read_shard: Callable[[Path], Shard] | None = None
) -> TensorSource:
    """Open a `.safetensors` file, a `*.safetensors.index.json`, or a folder with exactly one of them.

    Parameters
    ----------
    path : path or address
        What to open; of an `hf://` address, what is needed is downloaded first. Headers are read and checked now,
        data when asked for.
    allow_pickle : bool
        Also accept .bin, .pt, .pth and .ckpt, through torch's loader for tensors alone.
    read_shard : callable, optional
        What reads a file's header, where it does not lie on the disk.

    Returns
    -------
    source : Checkpoint, or PickleCheckpoint for a pickle

    Examples
    --------
    >>> open_checkpoint("weights.ckpt")
    Traceback (most recent call last):
    rekernel.header.CheckpointError: weights.ckpt: no such file or folder.
    """
    from .remote import local_path  # what lies on the Hub is opened from the Hub's cache

    path = local_path(path) if read_shard is None else Path(path)
    read_shard = read_shard or _read_shard
    where = shown_path(path)
    if not os.path.lexists(path):
        raise CheckpointError(f"{where}: no such file or folder.")
    if path.is_dir():
        path = _the_one(path, allow_pickle)
        where = shown_path(path)
    if _INDEX.fullmatch(path.name):
        return _open_sharded(path, read_shard)
    named_pickle = path.suffix.lower() in PICKLE_SUFFIXES
    if (named_pickle and not _begins_as(path, "safetensors")) or (allow_pickle and _begins_as(path, "pickle")):
        from .pickles import PickleCheckpoint  # torch only where it is needed

        return PickleCheckpoint(path, allow_pickle=allow_pickle)
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"{where}: an ONNX model, no checkpoint; `rekernel plan` shows its layers and what is done."
        )
    if path.suffix.lower() == ".json":
        raise CheckpointError(f"{where}: not an index; pass a .safetensors file or a *.safetensors.index.json.")
    return Checkpoint(path, "file", (read_shard(path),))


@dataclass(frozen=True)
class Component:
    """A part of a pipeline with a folder of its own.

    candidates : the checkpoints in its folder (files or indices): none for a tokenizer, several with fp16 variants
    files : these and all their shards, relative to the pipeline folder
    """

    name: str
    folder: Path
    library: str
    class_name: str
    candidates: tuple[Path, ...]
    files: tuple[Path, ...]

    @property
    def checkpoint(self) -> Path | None:
        """The one candidate; None without any, CheckpointError with several."""
        if len(self.candidates) > 1:
            raise _ambiguous(self.folder, self.candidates)
        return self.candidates[0] if self.candidates else None


@dataclass(frozen=True)
class Pipeline:
    """A diffusers folder: `index` is model_index.json, `files` all that is no component's checkpoint, relative."""

    path: Path
    index: dict[str, object]
    components: dict[str, Component]
    files: tuple[Path, ...]


def find_pipeline(folder: StrPath) -> Pipeline | None:
    """The pipeline in `folder`, or None where there is no model_index.json.

    Links to folders are refused rather than followed, links to files may not lead out of the folder (but into the
    Hub cache's `blobs`), pipes and sockets are left out, and so are the `.git` and `.cache` folders.

    Examples
    --------
    >>> find_pipeline("no/such/folder") is None
    True
    """
    folder = Path(folder)
    if not os.path.lexists(folder / "model_index.json"):
        return None
    index = _read_json(contained(folder, "model_index.json"), "pipeline index")
    components: dict[str, Component] = {}
    for name, entry in index.items():
        is_component = isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
        if name.startswith("_") or not is_component:
            continue
        assert isinstance(entry, list)
        _check_plain(name, f"{shown_path(folder / 'model_index.json')}: component")
        place = folder / name
        if place.is_symlink():
            raise CheckpointError(
                f"{shown_path(place)}: a link, which is not followed; put the component's folder there."
            )
        candidates, shards = _candidates(place) if place.is_dir() else ([], [])
        files = tuple(sorted({path.relative_to(folder) for path in (*candidates, *shards)}))
        components[name] = Component(name, place, entry[0], entry[1], tuple(candidates), files)
    taken = [path for component in components.values() for path in component.files]
    return Pipeline(folder, index, components, other_files(folder, taken))


def other_files(folder: StrPath, taken: Iterable[StrPath]) -> tuple[Path, ...]:
    """Every regular file below `folder` that is not among `taken`, relative and sorted; links as in `find_pipeline`."""
    known = {Path(path) for path in taken}
    return tuple(sorted(path for path in _walk(Path(folder), Path()) if path not in known))


def _walk(root: Path, inside: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(root / inside))
    except OSError as error:
        raise CheckpointError(f"{shown_path(root / inside)}: {error.strerror}.") from None
    for entry in entries:
        relative = inside / entry.name
        if entry.is_symlink():
            target = contained(root, relative.as_posix())
            if target.is_dir():
                raise CheckpointError(
                    f"{shown_path(target)}: a link to a folder, which is not followed; put a copy there."
                )
            if not target.exists():
                raise CheckpointError(
                    f"{shown_path(target)}: a link to a file that is missing; download the folder again."
                )
            if target.is_file():
                yield relative
        elif entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS:
                yield from _walk(root, relative)
        elif entry.is_file():
            yield relative


def _the_one(folder: Path, allow_pickle: bool) -> Path:
    """The only checkpoint in a folder."""
    candidates, _ = _candidates(folder)
    pickles = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICKLE_SUFFIXES and not p.name.startswith("."))
    if not candidates and allow_pickle:
        candidates = pickles
    if len(candidates) > 1:
        raise _ambiguous(folder, candidates)
    if candidates:
        return contained(folder, candidates[0].name)
    if (folder / "model_index.json").exists():
        raise CheckpointError(
            f"{shown_path(folder)}: a diffusers pipeline; pass the folder of one component, such as unet."
        )
    if pickles:
        raise CheckpointError(
            f"{shown_path(folder)}: no safetensors, only pickles ({shown(pickles[0].name)}), which can run code; "
            "convert to safetensors, or pass ",
            ALLOW_PICKLE,
            ".",
        )
    raise CheckpointError(f"{shown_path(folder)}: no .safetensors file and no *.safetensors.index.json in this folder.")


def _candidates(folder: Path) -> tuple[list[Path], list[Path]]:
    """The checkpoints in a folder, each index standing for its shards; and these shards."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError as error:
        raise CheckpointError(f"{shown_path(folder)}: {error.strerror}.") from None
    indices = [name for name in names if _INDEX.fullmatch(name)]
    listed = {shard for name in indices for shard in _weight_map(*_read_index(contained(folder, name))).values()}
    files = [name for name in names if name.lower().endswith(".safetensors") and name not in listed]
    orphan = next((name for name in files if _SHARD.fullmatch(name) and "-of-00001" not in name), None)
    if orphan is not None:
        whose = "its *.safetensors.index.json is missing" if not indices else f"not in {shown(indices[0])}"
        raise CheckpointError(
            f"{shown_path(folder / orphan)}: one shard of several, {whose}; download the folder again."
        )
    return [folder / name for name in (*indices, *files)], [folder / name for name in sorted(listed)]


def _ambiguous(folder: Path, candidates: Iterable[Path]) -> CheckpointError:
    names = [shown(path.name) for path in candidates]
    listing = ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")
    return CheckpointError(f"{shown_path(folder)}: several checkpoints here ({listing}); pass the path of one.")


def _read_index(path: Path) -> tuple[Path, dict[str, object]]:
    return path, _read_json(path, "index")


def _read_json(path: Path, what: str) -> dict[str, object]:
    where = shown_path(path)
    fd = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        raw = file.read(MAX_HEADER + 1)
    if len(raw) > MAX_HEADER:
        raise CheckpointError(f"{where}: over {MAX_HEADER} bytes, too large for its kind ({what}).")
    if not raw.lstrip().startswith(b"{"):
        why = foreign_format(raw[:512]) or (f"no JSON object, as a {what} has to be.",)
        raise CheckpointError(f"{where}: ", *why)
    parsed = strict_json(raw, where, what)
    assert isinstance(parsed, dict)  # it starts with a brace
    return parsed


def _weight_map(path: Path, index: dict[str, object]) -> dict[str, str]:
    where, weights = shown_path(path), index.get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{where}: no weight_map of tensor names to file names, as an index has to have.")
    if not isinstance(index.get("metadata", {}), dict):
        raise CheckpointError(f"{where}: its metadata is not an object.")
    for name, shard in weights.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{where}: weight_map of tensor {shown(name)} is not a file name.")
    for shard in set(weights.values()):
        _check_plain(shard, f"{where}: shard")
    return weights


def _open_sharded(path: Path, read_shard: Callable[[Path], Shard]) -> Checkpoint:
    where = shown_path(path)
    index = _read_index(path)[1]
    weights = _weight_map(path, index)
    shards: list[Shard] = []
    home: dict[str, str] = {}
    for name in sorted(set(weights.values())):
        if not os.path.lexists(path.parent / name):
            raise CheckpointError(f"{where}: shard {shown(name)} is missing; download it into the same folder.")
        shard = read_shard(contained(path.parent, name))
        for tensor in shard.header.tensors:
            what = f"{where}: tensor {shown(tensor)}"
            if tensor in home:
                raise CheckpointError(f"{what} is in two shards, {shown(home[tensor])} and {shown(name)}.")
            if tensor not in weights:
                raise CheckpointError(f"{what} is in shard {shown(name)}, but not listed in the index.")
            home[tensor] = name
        shards.append(shard)
    for tensor, name in weights.items():
        if home.get(tensor) != name:
            really = f"; it is in {shown(home[tensor])}" if tensor in home else ""
            raise CheckpointError(f"{where}: tensor {shown(tensor)} is not in its shard {shown(name)}{really}.")
    return Checkpoint(path, "sharded", tuple(shards), index)


def _check_plain(name: str, where: str) -> None:
    """A name out of a file has to be one plain name, on every system: no way up, no root, no drive, no stream."""
    if name in ("", ".", "..") or any(c in '/\\:*?"<>|' or ord(c) < 32 for c in name) or name[-1] in ". ":
        raise CheckpointError(f"{where} {shown(name)} is not a plain file name inside the folder; refused.")


def contained(folder: Path, name: str) -> Path:
    """`folder / name` of a plain name, whose links lead nowhere outside, except to the blobs of the same Hub cache."""
    path = folder / name
    root, target = folder.resolve(), path.resolve()
    if target.is_relative_to(root):
        return path
    # <repo>/snapshots/<revision>/... -> <repo>/blobs/<hash>, with no link on the way to hide behind; newer clients make
    # that a link too, to <cache>/blobs/<2 digits>/<hash>, a store that all repositories share and that is marked.
    for place in (root, *root.parents):
        if place.parent.name != "snapshots":
            continue
        repository, shared = place.parent.parent, target.parent.parent
        if target.parent == repository / "blobs":
            return path
        if shared == repository.parent / "blobs" and (shared / ".huggingface-shared-blobs").is_file():
            return path
    raise CheckpointError(f"{shown_path(path)}: a link that leads out of its folder, to {shown_path(target)}; refused.")


def shard_of_header(path: Path, raw: bytes, size: int, where: str) -> Shard:
    """A shard of which `path` holds the header `raw` alone, of a file of `size` bytes: its tensors cannot be read."""
    return Shard(path, parse_header(raw, size=size, where=shown_path(where)), _signature(path.stat()))


def _read_shard(path: Path) -> Shard:
    fd = open_regular(path)
    try:
        signature = _signature(os.fstat(fd))
        return Shard(path, read_header_from(fd, shown_path(path)), signature)
    finally:
        os.close(fd)


def _begins_as(path: Path, kind: str) -> bool:
    """Whether the content is of this kind, whatever the name says."""
    fd = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        prefix = file.read(9)
    # A header of 640 bytes also begins like a pickle; only an impossible length tells.
    plausible = int.from_bytes(prefix[:8], "little") <= MAX_HEADER
    return plausible and prefix[8:] == b"{" if kind == "safetensors" else not plausible and is_pickle(prefix)


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino


def _check_unchanged(shard: Shard) -> None:
    try:
        status = shard.path.stat()
    except OSError:
        raise CheckpointError(
            f"{shown_path(shard.path)}: vanished while it was read; nothing after this is right."
        ) from None
    if _signature(status) != shard.signature:
        raise _changed(shard)


def _changed(shard: Shard) -> CheckpointError:
    return CheckpointError(
        f"{shown_path(shard.path)}: changed since it was opened; let its writer finish, then start again."
    )


def _read_at(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, min(len(view), 1 << 24))
    view[: len(data)] = data
    return len(data)
