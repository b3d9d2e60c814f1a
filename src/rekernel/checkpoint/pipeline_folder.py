"""Read the folder of a diffusers pipeline: its components, their checkpoints and all other files.

Scope: model_index.json and the files in a folder. Not here: opening checkpoints (see `checkpoint.open_local`).
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
    """A component of a pipeline, in its own folder.

    candidates : the checkpoints (files or indices) in the folder; empty for a tokenizer, several with fp16 variants
    files : the candidates and all their shards, relative to the pipeline folder
    """

    name: str
    folder: Path
    library: str
    class_name: str
    candidates: tuple[Path, ...]
    files: tuple[Path, ...]

    @property
    def checkpoint(self) -> Path | None:
        """The only candidate; None if there is none, CheckpointError if there are several."""
        if len(self.candidates) > 1:
            raise ambiguous(self.folder, self.candidates)
        return self.candidates[0] if self.candidates else None


@dataclass(frozen=True)
class Pipeline:
    """The folder of a diffusers pipeline.

    index : content of model_index.json
    files : all files except the checkpoints of the components, relative to `path`
    """

    path: Path
    index: dict[str, object]
    components: dict[str, Component]
    files: tuple[Path, ...]

    @property
    def brings_code(self) -> bool:
        """Whether the folder has Python code of its own, for which diffusers requires trust_remote_code=True."""
        parts = (part.folder / f"{part.library}.py" for part in self.components.values())
        return isinstance(self.index.get("_class_name"), list) or any(path.is_file() for path in parts)


def find_pipeline(folder: StrPath) -> Pipeline | None:
    """Read the pipeline in `folder`; None if the folder has no model_index.json.

    Links are treated, and files left out, as in `other_files`.

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
                f"{shown_path(place)}: is a link, which rekernel does not follow; "
                "replace the link with the folder of the component."
            )
        candidates, shards = candidates_in(place) if place.is_dir() else ([], [])
        files = tuple(sorted({path.relative_to(folder) for path in (*candidates, *shards)}))
        components[name] = Component(name, place, entry[0], entry[1], tuple(candidates), files)
    taken = [path for component in components.values() for path in component.files]
    return Pipeline(folder, index, components, other_files(folder, taken))
