"""Read a file or folder in a store through a stand-in folder, whose files have names and sizes but not the data.

Scope: listings, headers and small files. Not here: ranges of an object (see `sources.store_file`). The files of the
stand-in have the same names and sizes as in the store, so code for folders works on addresses too. Weights are read
through their shards alone: a stand-in has zeros where the data would be, and so is not a valid file of weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.atomic_file import AtomicFile, check_free_space, copy_atomic
from ..checkpoint.discover import ONNX_DATA, PICKLE_SUFFIXES, candidates_in
from ..checkpoint.header import MAX_HEADER
from ..checkpoint.open_local import open_checkpoint
from ..checkpoint.paths import is_own, plain_parts
from ..checkpoint.shard import Shard, shard_of_header
from ..checkpoint.shard_index import INDEX_NAME, read_index, weight_map
from ..checkpoint.tensor_source import TensorSource
from ..errors import CheckpointError
from ..escape import shown
from .place import Place
from .remote_header import whole_header
from .store_address import StoreAddress
from .store_client import StoreError, info_of, requests, shown_address
from .store_file import StoreFile, size_in, store_file

MOST_FILES = 10_000
_READ = re.compile(r"(model_index|config|preprocessor_config)\.json|.+\.safetensors\.index(\.[\w-]+)?\.json")
_BESIDE = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class StorePlace(Place):
    """A source in a store. `path` is its stand-in.

    address : address of the folder that `root` stands for
    root : stand-in of that folder, which contains `path`
    files : what the store said of every file that the stand-in has, by name
    """

    address: StoreAddress
    root: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)
    _shards: dict[Path, Shard] = field(default_factory=dict)

    def open(self, path: Path, *, allow_pickle: bool = False) -> TensorSource:
        """Open a checkpoint. Headers are read now, and tensors by ranges later; pickles are refused."""
        self._refuse_others(path)
        return open_checkpoint(path, read_shard=self._shard)

    def here(self, path: Path) -> Path:
        """Refuse to copy a whole model to this disk."""
        where = shown_address(self._address(path))
        raise StoreError(f"{where}: rekernel reads this format on a disk alone; copy it here first.")

    def complete(self, path: Path) -> None:
        """Copy a small file, if the store has it, into its stand-in."""
        name = path.relative_to(self.root).as_posix()
        if name in self._whole or not 0 < self.files.get(name, {}).get("size", 0) <= MAX_HEADER:
            return
        path.write_bytes(self._file(name).whole())
        self._whole.add(name)

    def named(self, path: Path) -> str:
        """Return the address of a path in the stand-in, without a password."""
        return str(self._address(path))

    def copy(self, source: Path, target: Path, *, force: bool, inputs: Any) -> None:
        """Copy a file of any size to this disk, as `copy_atomic` does, through memory of bounded size."""
        remote = self.remote(source)
        if remote is None:
            copy_atomic(source, target, force=force, inputs=inputs)
            return
        with AtomicFile(target, force=force, inputs=inputs, like=source) as file:
            check_free_space(target.parent, remote.nbytes)
            position = 0
            for piece in remote.pieces():
                file.write_at(position, memoryview(piece))
                position += len(piece)

    def remote(self, path: Path) -> StoreFile | None:
        """The object that a file of the stand-in stands for; None for a file that was copied into the stand-in."""
        name = path.relative_to(self.root).as_posix()
        return None if name in self._whole else self._file(name)

    def _address(self, path: Path) -> StoreAddress:
        inside = path.relative_to(self.root).as_posix()
        return self.address if inside == "." else self.address / inside

    def _file(self, name: str) -> StoreFile:
        return store_file(self.address / name, self.files.get(name))

    def _shard(self, path: Path) -> Shard:
        if path not in self._shards:
            name = path.relative_to(self.root).as_posix()
            file, position = self._file(name), 0

            def read(count: int) -> bytes:
                nonlocal position
                start, position = position, min(position + count, file.nbytes)
                return file.fetch(start, position)

            where = self.named(path)
            raw = whole_header(read, file.nbytes, where)
            self._shards[path] = shard_of_header(path, raw, file.nbytes, where, file)
        return self._shards[path]

    def _refuse_others(self, path: Path) -> None:
        """Raise for weights that only code on this disk can read."""
        held = [path]
        if path.is_dir():
            if candidates_in(path)[0] or (path / "model_index.json").exists():
                return
            held = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        kinds = {(".onnx", *ONNX_DATA): "an ONNX model", PICKLE_SUFFIXES: "a pickle"}
        for suffixes, kind in kinds.items():
            if found := next((file for file in held if file.name.lower().endswith(suffixes)), None):
                where = shown_address(self._address(found))
                raise StoreError(f"{where}: is {kind}, which rekernel reads on a disk alone; copy it here first.")

    def _stand_in(self, name: str, info: dict[str, Any]) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size_in(info, self.address / name))  # no block of the disk is used
        self.files[name] = info


def store_place(address: StoreAddress, root: Path) -> StorePlace:
    """Fill the empty folder `root` with the stand-in of a source; copy its index and configurations whole.

    `root` stands for the folder around the source.

    Raises
    ------
    StoreError
        If there is no such object or folder, or it cannot be read.
    """
    found = info_of(address)
    if found is not None and found.get("type") != "directory" and not address.is_folder:
        return _of_file(address, found, root)
    if address.name:
        root = root / _plain(address.name, address)
        root.mkdir()
    place = StorePlace(root, address, root)
    for name, info in listed(address).items():
        if any(map(is_own, name.split("/"))):  # of another conversion, which was killed
            continue
        place._stand_in(name, info)
        if _READ.fullmatch(name.rpartition("/")[2]):
            place.complete(root / name)
    if not place.files:
        raise StoreError(f"{shown_address(address)}: no such object, and no folder of this name with objects in it.")
    return place


def _of_file(address: StoreAddress, info: dict[str, Any], root: Path) -> StorePlace:
    """The stand-in of one file, of its shards where the file is an index, and of configurations beside it."""
    folder, name = address.parent, address.name
    place = StorePlace(root / _plain(name, address), folder, root)
    place._refuse_others(place.path)
    place._stand_in(name, info)
    beside: list[str] = []
    if INDEX_NAME.fullmatch(name):
        place.complete(place.path)
        beside = sorted(set(weight_map(place.path, read_index(place.path)).values()))
    for other in (*beside, *_BESIDE):
        try:
            there = info_of(folder / other)
        except StoreError:
            if other not in _BESIDE:
                raise
            continue  # without the right to list the folder, some stores do not say that an object is missing
        if there is not None and there.get("type") != "directory":
            place._stand_in(other, there)
            if other in _BESIDE:
                place.complete(root / other)
    return place


def listed(folder: StoreAddress) -> dict[str, dict[str, Any]]:
    """What the store says of every object below a folder, by name relative to the folder; empty if there is none.

    Raises
    ------
    StoreError
        If there are more than 10,000 objects, or one whose name no file can have.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, info in _walked(folder):
        if len(found) >= MOST_FILES:
            raise StoreError(
                f"{shown_address(folder)}: holds more than {MOST_FILES} objects; pass the folder of one model."
            )
        _plain(name, folder)
        found[name] = info
    return dict(sorted(found.items()))


def _walked(folder: StoreAddress) -> Iterator[tuple[str, dict[str, Any]]]:
    with requests(folder) as (fs, path):
        fs.invalidate_cache(path)
        base = path.strip("/")
        for where, _, files in fs.walk(path, detail=True):
            inside = where.strip("/")[len(base) :].strip("/")
            for name, info in files.items():
                if name and info.get("type") != "directory":  # an object may stand for an empty folder
                    yield (f"{inside}/{name}" if inside else name), info


def _plain(name: str, address: StoreAddress) -> str:
    """Return a name that leads to a file inside its folder; raise for another one."""
    parts = name.split("/")
    if (os.name == "nt" and plain_parts(name) is None) or any(p in ("", ".", "..") or "\0" in p for p in parts):
        raise CheckpointError(
            f"{shown_address(address)}: the object {shown(name)} has a name that no file on this disk can have; "
            f"rename it."
        )
    return name
