"""What may be uploaded: the files that a conversion wrote or copied, and why others stay.

Knows folders and recipes; nothing of the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.discover import OTHER_WEIGHTS, onnx_of
from ..checkpoint.paths import StrPath, contained, other_files
from ..checkpoint.pipeline_folder import Pipeline, find_pipeline
from ..checkpoint.variants import plain_candidate
from ..diffusion.pipelines.record import Recorded, read_records
from ..errors import CheckpointError, RekernelError, SeveralCheckpointsError
from ..escape import shown_path
from ..plan.recipe import Recipe, find_recipe
from ..sources.opening import open_source

CARD = "README.md"
_CACHES = re.compile(
    r"__pycache__|.*(\.py[co]|\.tmp|\.temp|\.lock|\.incomplete|\.partial|\.swp|\.log|~)", re.IGNORECASE
)
_LARGEST_CONFIG = 1 << 24


@dataclass(frozen=True)
class Payload:
    """A converted file or folder, ready to be uploaded.

    files : the file of each name in the repository
    recipes : how each component was rescaled, by its folder's name; '' for a checkpoint that is no pipeline
    checkpoints : names of the rescaled files
    left : what stays, and why
    configs : config.json of each entry of `recipes`; empty where there is none
    pipeline : whether it is a diffusers pipeline
    recorded : how its denoiser is sampled above the trained size, by its folder's name
    brings_code : whether loading it runs Python of its own
    """

    files: dict[str, Path]
    recipes: dict[str, Recipe]
    checkpoints: tuple[str, ...]
    left: dict[str, str]
    configs: dict[str, dict[str, Any]]
    pipeline: bool = False
    recorded: dict[str, Recorded] = field(default_factory=dict)
    brings_code: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {name: path.stat().st_size for name, path in self.files.items()}

    @property
    def onnx(self) -> str:
        """Name of the model, where it is an ONNX one; else empty."""
        return next((name for name in self.checkpoints if name.lower().endswith(".onnx")), "")


def payload(path: StrPath) -> Payload:
    """What of `path` belongs to the conversion.

    Parameters
    ----------
    path : path
        A converted file, or the folder of a conversion; or a pipeline folder that records guidance.

    Raises
    ------
    RekernelError
        Where there is neither a recipe nor a record, so that nothing was converted, and for a link that leads out of
        the folder.
    """
    root = Path(path)
    if root.is_file():
        if onnx_of(root) is not None:
            found, recipe = _onnx(root)
            if recipe is None:
                raise _no_recipe(root)
            files = {file.relative_to(root.parent).as_posix(): file for file in found}
            return Payload(files, {"": recipe}, tuple(sorted(files)), {}, {"": {}})
        with open_source(root) as opened:
            recipe = find_recipe(opened.metadata)
            if recipe is None:
                raise _no_recipe(root)
            beside = opened.files if opened.kind == "sharded" else (root,)
            files = {file.name: file for file in beside}
        return Payload(files, {"": recipe}, tuple(sorted(files)), {}, {"": {}})
    if not root.is_dir():
        raise RekernelError(f"{shown_path(root)}: no such file or folder.")
    pipeline = find_pipeline(root)
    recorded = {} if pipeline is None else read_records(pipeline)
    checkpoints = _checkpoints(root, pipeline, recorded)
    if not checkpoints and not recorded:
        raise _no_recipe(root)
    rescaled = {file for files, _ in checkpoints.values() for file in files}
    files, left = {}, {}
    for file in other_files(root, ()):
        reason = _reason(file, rescaled, pipeline, set(checkpoints))
        if reason:
            left[file.as_posix()] = reason
        else:
            files[file.as_posix()] = root / file
    return Payload(
        files,
        {name: recipe for name, (_, recipe) in checkpoints.items()},
        tuple(sorted(file.as_posix() for file in rescaled)),
        left,
        {name: config_of(root / name / "config.json") for name in checkpoints},
        pipeline is not None,
        recorded,
        pipeline is not None and pipeline.brings_code,
    )


def _no_recipe(path: Path) -> RekernelError:
    return RekernelError(
        f"{shown_path(path)}: holds no recipe, so rekernel did not convert it; push what `rekernel convert` wrote."
    )


def _checkpoints(
    root: Path, pipeline: Pipeline | None, recorded: Mapping[str, Recorded]
) -> dict[str, tuple[set[Path], Recipe]]:
    """Files, relative to `root`, and recipe of every rescaled checkpoint."""
    model = onnx_of(root)
    if model is not None:
        files, recipe = _onnx(model)
        return {} if recipe is None else {"": ({file.relative_to(root) for file in files}, recipe)}
    if pipeline is None:
        try:
            places = {"": open_source(root)}
        except SeveralCheckpointsError:
            raise
        except CheckpointError:
            raise _no_recipe(root) from None
    else:
        places = {}
        for name, component in pipeline.components.items():
            chosen = plain_candidate(component)
            if chosen is not None:
                places[name] = open_source(chosen)
    found = {}
    for name, source in places.items():
        with source:
            recipe = find_recipe(source.metadata)
            if recipe is None and name in recorded and (plan := recorded[name].plan) is not None:
                recipe = Recipe(plan, ())  # saved by diffusers, which keeps the config alone
            if recipe is not None:
                found[name] = ({file.relative_to(root) for file in source.files}, recipe)
    return found


def _onnx(model: Path) -> tuple[list[Path], Recipe | None]:
    """The files of an ONNX model, and its recipe."""
    from ..onnx import list_model

    found = list_model(model)
    for name in found.beside:
        contained(model.parent, name.relative_to(model.parent).as_posix())
    return [model, *found.beside], find_recipe(found.metadata)


def _reason(file: Path, rescaled: set[Path], pipeline: Pipeline | None, converted: set[str]) -> str:
    """Why a file of the folder stays; empty where it goes."""
    folder = file.parts[0] if len(file.parts) > 1 else ""
    if any(part.startswith(".") for part in file.parts):
        return "hidden"
    if any(_CACHES.fullmatch(part) for part in file.parts):
        return "a cache or a log"
    if file in rescaled:
        return ""
    if folder and (pipeline is None or folder not in pipeline.components):
        return "in a folder that is no part of the model"
    if file.name.endswith(OTHER_WEIGHTS) and (pipeline is None or not folder or folder in converted):
        return "weights that were not rescaled"
    return ""


def config_of(path: Path) -> dict[str, Any]:
    """A model's own config.json, as far as it can be read: it only says which class loads it."""
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            return {}
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
