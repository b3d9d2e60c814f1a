"""Read the folder of a diffusers pipeline: its components, their checkpoints and all other files.

Scope: model_index.json and the names of folders. Not here: opening checkpoints (see `checkpoint.open_local`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown_path
from .discover import ambiguous, candidates_in
from .paths import StrPath, check_plain, contained, other_files
from .shard_index import read_index


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
            raise ambiguous(self.folder, self.candidates)
        return self.candidates[0] if self.candidates else None


@dataclass(frozen=True)
class Pipeline:
    """A diffusers folder: `index` is model_index.json, `files` all but the components' checkpoints, relative."""

    path: Path
    index: dict[str, object]
    components: dict[str, Component]
    files: tuple[Path, ...]

    @property
    def brings_code(self) -> bool:
        """Whether the index names classes of the folder's own, for which diffusers asks for trust_remote_code=True."""
        parts = (part.folder / f"{part.library}.py" for part in self.components.values())
        return isinstance(self.index.get("_class_name"), list) or any(path.is_file() for path in parts)


def find_pipeline(folder: StrPath) -> Pipeline | None:
    """The pipeline in `folder`, or None where there is no model_index.json.

    Links, and what is left out, are as in `other_files`.

    Examples
    --------
    >>> find_pipeline("no/such/folder") is None
    True
    """
    folder = Path(folder)
    if not os.path.lexists(folder / "model_index.json"):
        return None
    index = read_index(contained(folder, "model_index.json"), "pipeline index")
    components: dict[str, Component] = {}
    for name, entry in index.items():
        is_component = isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
        if name.startswith("_") or not is_component:
            continue
        assert isinstance(entry, list)
        check_plain(name, f"{shown_path(folder / 'model_index.json')}: component")
        place = folder / name
        if place.is_symlink():
            raise CheckpointError(
                f"{shown_path(place)}: a link, which is not followed; put the component's folder there."
            )
        candidates, shards = candidates_in(place) if place.is_dir() else ([], [])
        files = tuple(sorted({path.relative_to(folder) for path in (*candidates, *shards)}))
        components[name] = Component(name, place, entry[0], entry[1], tuple(candidates), files)
    taken = [path for component in components.values() for path in component.files]
    return Pipeline(folder, index, components, other_files(folder, taken))
