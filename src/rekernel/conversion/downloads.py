"""Decide which files of a Hub repository a conversion needs, and download them.

A conversion needs the weights that are rescaled or kept, and the small files beside them. The same weights in other
formats are not downloaded.
Scope: the choice of files. Not here: the download itself (see `sources.hub_place`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint.atomic_file import copy_atomic
from ..checkpoint.discover import OTHER_WEIGHTS, PICKLE_SUFFIXES
from ..checkpoint.paths import other_files
from ..checkpoint.pipeline_folder import Component, Pipeline, find_pipeline
from ..checkpoint.tensor_source import TensorSource
from ..checkpoint.variants import chosen_weights, split_name
from ..errors import SeveralCheckpointsError
from ..sources.hub_place import RemotePlace
from ..sources.opening import open_source
from ..sources.place import Origin, Place
from ..sources.store_file import StoreFile
from ..sources.store_place import StorePlace


@dataclass(frozen=True)
class Fetched:
    """A source on the disk, after the download.

    path : path of the source
    parts : path of each component to convert, by name
    origin : repository and commit of the source; None for a local source
    wanted : files that the conversion needs, relative to `path`; None for all files. The client's cache may hold more
    left : weights in other formats, which were not downloaded since a conversion does not copy them
    place : the place, if it is in a store, whose weights are read there piece by piece
    """

    path: Path
    parts: dict[str, Path]
    origin: Origin | None = None
    wanted: frozenset[Path] | None = None
    left: tuple[Path, ...] = ()
    place: StorePlace | None = None

    def open(self, path: Path, *, allow_pickle: bool = False) -> TensorSource:
        """Open one of the checkpoints."""
        if self.place is not None:
            return self.place.open(path, allow_pickle=allow_pickle)
        return open_source(path, allow_pickle=allow_pickle)

    def copy(self, source: Path, target: Path, *, force: bool = False, inputs: Iterable[Path] = ()) -> None:
        """Copy a file beside the weights, as `copy_atomic` does."""
        if self.place is not None:
            self.place.copy(source, target, force=force, inputs=inputs)
            return
        copy_atomic(source, target, force=force, inputs=inputs)

    def remote(self, path: Path) -> StoreFile | None:
        """The object to read in place of `path`; None for a file on this disk."""
        return None if self.place is None else self.place.remote(path)

    def pipeline(self) -> Pipeline | None:
        """Read the pipeline as `find_pipeline` does, restricted to the wanted files."""
        found = find_pipeline(self.path)
        if found is None or self.wanted is None:
            return found
        components = {
            name: replace(component, files=tuple(f for f in component.files if f in self.wanted))
            for name, component in found.components.items()
        }
        return replace(found, components=components, files=tuple(f for f in found.files if f in self.wanted))

    def copied(self, files: Iterable[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
        """Filter (source, destination) pairs down to the wanted files."""
        return [(a, b) for a, b in files if self.wanted is None or a.relative_to(self.path) in self.wanted]


def fetch(place: Place, parts: Mapping[str, Path], *, allow_pickle: bool = False) -> Fetched:
    """Download the files that converting `parts` needs from the Hub. Nothing is downloaded for any other place.

    Parameters
    ----------
    place : Place
        The place that `open_location` returned.
    parts : {component: path}
        The result of `parts_of` for `place.path`.
    allow_pickle : bool
        As for `open_checkpoint`.
    """
    if not isinstance(place, RemotePlace):
        return Fetched(place.path, dict(parts), place=place if isinstance(place, StorePlace) else None)
    with_pickles: dict[str, TensorSource] = {}
    for name, path in parts.items():
        with place.open(path, allow_pickle=allow_pickle) as opened:
            with_pickles[name] = opened
    if any(not source.shards for source in with_pickles.values()):
        return _pickled(place, with_pickles[""])
    return fetch_files(place, parts, {path for source in with_pickles.values() for path in source.files})


def fetch_files(place: Place, parts: Mapping[str, Path], files: Iterable[Path]) -> Fetched:
    """Download `files`, which converting `parts` reads, and the small files beside them.

    Nothing is downloaded for a local place.

    Examples
    --------
    >>> fetch_files(Place(Path("net.onnx")), {"": Path("net.onnx")}, []).path.name
    'net.onnx'
    """
    if not isinstance(place, RemotePlace):
        return Fetched(place.path, dict(parts))
    read = {path.relative_to(place.root) for path in files}
    wanted, left = set(read), set[Path]()
    if place.path.is_dir():
        inside = place.path.relative_to(place.root)
        wanted, left = _beside(place.path, parts, {path.relative_to(inside) for path in read})
        wanted, left = {inside / path for path in wanted}, {inside / path for path in left}
    folder = place.fetch(sorted(path.as_posix() for path in wanted))
    path = folder / place.path.relative_to(place.root)
    return Fetched(
        path,
        {name: folder / part.relative_to(place.root) for name, part in parts.items()},
        Origin(place.address.repo, place.commit, folder),
        frozenset((folder / name).relative_to(path) for name in wanted) if place.path.is_dir() else None,
        tuple(sorted((folder / name).relative_to(path) for name in left)) if place.path.is_dir() else (),
    )


def _beside(folder: Path, parts: Mapping[str, Path], read: set[Path]) -> tuple[set[Path], set[Path]]:
    """Return the files to download from a folder in which `read` are converted, and the weights to leave."""
    pipeline = find_pipeline(folder)
    kept = set[Path]()
    if pipeline is not None:
        for name, component in pipeline.components.items():
            if name not in parts:
                kept |= copied_weights(component, folder)
    everything = {path for path in other_files(folder, ()) if not any(part.startswith(".") for part in path.parts)}
    weights = {path for path in everything if path.name.endswith(OTHER_WEIGHTS)}
    return (everything - weights) | kept | read, weights - kept - read


def copied_weights(component: Component, folder: Path) -> set[Path]:
    """List the weights of a component that is copied: the plain variant, which diffusers loads by default."""
    if not component.candidates:
        present = other_files(component.folder, ()) if component.folder.is_dir() else ()
        pickles = {path for path in present if path.suffix in PICKLE_SUFFIXES and not split_name(path.name)[1]}
        return {component.folder.relative_to(folder) / path for path in pickles}
    try:
        plain = chosen_weights(component)
    except SeveralCheckpointsError:  # several variants without a plain one: the loader has to choose
        return set(component.files)
    assert plain is not None
    return {file for file in component.files if split_name(file.name) == split_name(plain.name)}


def _pickled(place: RemotePlace, source: TensorSource) -> Fetched:
    """Describe a pickle, which was downloaded when it was opened. No file beside a pickle is copied."""
    snapshot = next(p for p in source.path.parents if p.parent.name == "snapshots")
    return Fetched(source.path, {"": source.path}, Origin(place.address.repo, place.commit, snapshot))
