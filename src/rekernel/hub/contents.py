"""Decide which files to upload: those that a conversion wrote or copied. Every other file stays, with a reason.

Scope: folders and recipes. Not here: the network (see `hub.upload`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.discover import OTHER_WEIGHTS
from ..checkpoint.paths import StrPath, missing, other_files
from ..checkpoint.pipeline_folder import Pipeline, find_pipeline
from ..checkpoint.strict_json import read_object
from ..diffusion.pipelines.record import Recorded, read_records
from ..errors import RekernelError
from ..escape import shown_path
from ..formats.recognise import model_files
from ..messages.arguments import check_path
from ..messages.display import Displayed
from ..plan.recipe import Recipe
from ..sources.opening import refuse_stored
from ..sources.place import Place
from ..text import counted

CARD = "README.md"
_CACHES = re.compile(
    r"__pycache__|.*(\.py[co]|\.tmp|\.temp|\.lock|\.incomplete|\.partial|\.swp|\.log|~)", re.IGNORECASE
)


@dataclass(frozen=True, repr=False)
class Payload(Displayed):
    """A converted file or folder, ready to be uploaded.

    files : local path of each file, by its name in the repository
    recipes : recipe of each component, by folder name; the name is '' for a single checkpoint
    checkpoints : names of the rescaled files
    left : reason why a file stays, by name
    configs : content of config.json for each entry of `recipes`; empty if there is none
    pipeline : whether the folder is a diffusers pipeline
    recorded : recorded guidance, kernels and positions of each denoiser, by folder name
    brings_code : whether loading the model runs Python code from the repository
    """

    files: dict[str, Path]
    recipes: dict[str, Recipe]
    checkpoints: tuple[str, ...]
    left: dict[str, str]
    configs: dict[str, dict[str, Any]]
    pipeline: bool = False
    recorded: dict[str, Recorded] = field(default_factory=dict)
    brings_code: bool = False

    def _line(self) -> str:
        rescaled = f"{counted(len(self.checkpoints), 'rescaled file')} and {len(self.left)} left"
        return f"{counted(len(self.files), 'file')}, {rescaled}"

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each file in bytes, by name."""
        return {name: path.stat().st_size for name, path in self.files.items()}

    @property
    def onnx(self) -> str:
        """Name of the ONNX model; empty for a model in another format."""
        return next((name for name in self.checkpoints if name.lower().endswith(".onnx")), "")


def payload(path: StrPath) -> Payload:
    """Collect the files of `path` that belong to the conversion.

    Parameters
    ----------
    path : path
        A converted file, or the folder of a conversion; or a pipeline folder that records guidance.

    Raises
    ------
    RekernelError
        If `path` holds neither a recipe nor recorded guidance, so rekernel did not convert it, or if a link leads out
        of the folder.
    """
    check_path(path, "path")
    refuse_stored(path)
    root = Path(path)
    if root.is_file():
        weights = model_files(Place(root)).weights()[""]
        if weights.recipe is None:
            raise _no_recipe(root)
        files = {file.relative_to(root.parent).as_posix(): file for file in weights.files}
        return Payload(files, {"": weights.recipe}, tuple(sorted(files)), {}, {"": {}})
    if not root.is_dir():
        raise missing(root)
    pipeline = find_pipeline(root)
    recorded = {} if pipeline is None else read_records(pipeline)
    checkpoints = _checkpoints(root, recorded)
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
        f"{shown_path(path)}: holds no recipe, so rekernel did not convert it; push what `rekernel convert` wrote, or "
        f"save_pretrained of a rescaled model, as safetensors."
    )


def _checkpoints(root: Path, recorded: Mapping[str, Recorded]) -> dict[str, tuple[set[Path], Recipe]]:
    """Return the files, relative to `root`, and the recipe of every rescaled checkpoint."""
    found = {}
    for name, weights in model_files(Place(root)).weights().items():
        recipe = weights.recipe
        if recipe is None and name in recorded and (plan := recorded[name].plan) is not None:
            recipe = Recipe(plan, ())  # saved by diffusers, which keeps only the config
        if recipe is not None:
            found[name] = ({file.relative_to(root) for file in weights.files}, recipe)
    return found


def _reason(file: Path, rescaled: set[Path], pipeline: Pipeline | None, converted: set[str]) -> str:
    """Return the reason why a file stays; empty for a file to upload."""
    folder = file.parts[0] if len(file.parts) > 1 else ""
    if any(part.startswith(".") for part in file.parts):
        return "hidden"
    if any(_CACHES.fullmatch(part) for part in file.parts):
        return "a cache or a log"
    if file in rescaled:
        return ""
    if folder and (pipeline is None or folder not in pipeline.components):
        return "in a folder that is not part of the model"
    if file.name.endswith(OTHER_WEIGHTS) and (pipeline is None or not folder or folder in converted):
        return "weights that were not rescaled"
    return ""


def config_of(path: Path) -> dict[str, Any]:
    """Read the config.json of a model, which names the class that loads it; empty if it cannot be read."""
    try:
        return read_object(path)
    except RekernelError:
        return {}
