"""What a conversion reads and where it may write: components, destinations, and the files beside the weights.

Knows paths and names of files; writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.discover import OTHER_WEIGHTS
from ..checkpoint.paths import StrPath, other_files
from ..checkpoint.pipeline_folder import find_pipeline
from ..checkpoint.tensor_source import TensorSource
from ..checkpoint.variants import plain_candidate
from ..errors import Option, RekernelError
from ..escape import shown, shown_path

DEFAULT_COMPONENTS = ("unet",)
"""What is rescaled of a pipeline: text encoders have no grid, and a VAE works at any size."""


def parts_of(source: StrPath, components: Sequence[str] | None) -> dict[str, Path]:
    """What to convert in `source`, by component name; '' for a checkpoint that is no pipeline."""
    pipeline = find_pipeline(source)
    where = shown_path(source)
    if pipeline is None:
        if components:
            raise RekernelError(
                f"{where}: no pipeline folder (no model_index.json), so it has no component {components[0]}"
            )
        return {"": Path(source)}
    with_weights = sorted(name for name, c in pipeline.components.items() if c.candidates)
    listed = f"its components with safetensors weights: {', '.join(map(shown, with_weights)) or 'none'}"
    chosen = list(components) if components else [n for n in DEFAULT_COMPONENTS if n in with_weights]
    if not chosen:
        named = Option("components=[...]", "--component")
        raise RekernelError(f"{where}: has no UNet to rescale; name one with ", named, f". {listed}")
    parts = {}
    for name in chosen:
        path = plain_candidate(pipeline.components[name]) if name in pipeline.components else None
        if path is None:
            raise RekernelError(f"{where}: component {shown(name)} has no safetensors weights; {listed}")
        parts[name] = path
    return parts


def file_target(source: TensorSource, target: Path, into_folder: bool) -> tuple[Path, str]:
    """Folder and name of a single converted file."""
    name = source.path.with_suffix(".safetensors").name
    if into_folder or target.is_dir():
        return target, name
    if target.suffix != ".safetensors":
        raise RekernelError(
            f"{shown_path(target)}: a converted file is called *.safetensors; pass such a name, or a folder"
        )
    return target.parent, target.name


def folder_target(target: Path, source: Path) -> Path:
    """The destination folder, which may not be, nor lie in, the source's."""
    where = shown_path(target)
    if target.suffix == ".safetensors" or (target.exists() and not target.is_dir()):
        raise RekernelError(f"{where}: the result is a folder of files; pass a folder's name")
    root = source if source.is_dir() else source.parent
    if target.resolve() == root.resolve():
        raise RekernelError(f"{where}: is the source's own folder, which is never changed; pass another")
    if source.is_dir() and target.resolve().is_relative_to(root.resolve()):
        raise RekernelError(f"{where}: lies inside the source; pass a folder outside it")
    return target


def beside(opened: TensorSource, source: Path, folder: Path) -> tuple[list[tuple[Path, Path]], Sequence[Path]]:
    """Files to copy along with a checkpoint's folder, and the weights in other formats to leave."""
    taken = [path.relative_to(source) for path in opened.files if path.is_relative_to(source)]
    others, skipped = split_weights(list(other_files(source, taken)), [Path()])
    return [(source / f, folder / f) for f in others], skipped


def split_weights(files: list[Path], folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Files to copy, and those below `folders` that hold the same weights, not rescaled."""
    stale = [f for f in files if f.name.endswith(OTHER_WEIGHTS) and f.parent in folders]
    return [f for f in files if f not in stale], stale
