"""Decide which files of a Hub repository a conversion needs, and download them.

Needed are the weights that are rescaled or kept, and the small files beside them. The same weights in other formats are
not downloaded.
Scope: which files. Not here: how a file comes (see `sources.hub_place`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint.discover import OTHER_WEIGHTS, PICKLE_SUFFIXES
from ..checkpoint.paths import other_files
from ..checkpoint.pipeline_folder import Component, Pipeline, find_pipeline
from ..checkpoint.tensor_source import TensorSource
from ..checkpoint.variants import chosen_weights, split_name
from ..errors import SeveralCheckpointsError
from ..sources.hub_place import RemotePlace
from ..sources.place import Origin, Place


@dataclass(frozen=True)
class Fetched:
    """A source that is on the disk now.

    path, parts : of the source and its components to convert
    origin : where it came from; None for a path
    wanted : the files that belong to it, relative to `path`; None for all. The client's cache may hold more
    left : weights in other formats, not fetched since a conversion does not copy them
    """

    path: Path
    parts: dict[str, Path]
    origin: Origin | None = None
    wanted: frozenset[Path] | None = None
    left: tuple[Path, ...] = ()

    def pipeline(self) -> Pipeline | None:
        """As `find_pipeline`, with what is wanted alone."""
        found = find_pipeline(self.path)
        if found is None or self.wanted is None:
            return found
        components = {
            name: replace(component, files=tuple(f for f in component.files if f in self.wanted))
            for name, component in found.components.items()
        }
        return replace(found, components=components, files=tuple(f for f in found.files if f in self.wanted))

    def copied(self, files: Iterable[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
        """Of files to copy, given with their destinations, those that are wanted."""
        return [(a, b) for a, b in files if self.wanted is None or a.relative_to(self.path) in self.wanted]


def fetch(place: Place, parts: Mapping[str, Path], *, allow_pickle: bool = False) -> Fetched:
    """Download what converting `parts` takes; of a path, nothing.

    Parameters
    ----------
    place : Place
        As `open_location` gave it.
    parts : {component: path}
        As `parts_of` gave it for `place.path`.
    allow_pickle : bool
        As for `open_checkpoint`.
    """
    if not isinstance(place, RemotePlace):
        return Fetched(place.path, dict(parts))
    with_pickles: dict[str, TensorSource] = {}
    for name, path in parts.items():
        with place.open(path, allow_pickle=allow_pickle) as opened:
            with_pickles[name] = opened
    if any(not source.shards for source in with_pickles.values()):
        return _pickled(place, with_pickles[""])
    return fetch_files(place, parts, {path for source in with_pickles.values() for path in source.files})


def fetch_files(place: Place, parts: Mapping[str, Path], files: Iterable[Path]) -> Fetched:
    """Download these files of a place, which converting `parts` reads, and what lies beside them; of a path, nothing.

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
    """Everything to fetch of a folder of which `read` is converted, and the weights to leave."""
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
    """The files of a component that is copied: of variants the plain one, as diffusers loads it."""
    if not component.candidates:
        present = other_files(component.folder, ()) if component.folder.is_dir() else ()
        pickles = {path for path in present if path.suffix in PICKLE_SUFFIXES and not split_name(path.name)[1]}
        return {component.folder.relative_to(folder) / path for path in pickles}
    try:
        plain = chosen_weights(component)
    except SeveralCheckpointsError:  # several, and none of them plain: its loader has to choose
        return set(component.files)
    assert plain is not None
    return {file for file in component.files if split_name(file.name) == split_name(plain.name)}


def _pickled(place: RemotePlace, source: TensorSource) -> Fetched:
    """A pickle was downloaded when it was looked at: alone, since nothing is copied beside it."""
    snapshot = next(p for p in source.path.parents if p.parent.name == "snapshots")
    return Fetched(source.path, {"": source.path}, Origin(place.address.repo, place.commit, snapshot))
