"""What a conversion reads and where it may write: components, destinations, and the files beside the weights.

Knows paths and names of files; writes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path

from ..checkpoint.discover import PICKLE_SUFFIXES
from ..checkpoint.file_kind import open_regular
from ..checkpoint.paths import StrPath, contained, other_files
from ..checkpoint.pipeline_folder import Component, find_pipeline
from ..checkpoint.tensor_source import TensorSource
from ..errors import Option, RekernelError
from ..escape import shown, shown_path
from .output_files import split_variant

DEFAULT_COMPONENTS = ("unet",)
"""What is rescaled of a pipeline: text encoders have no grid, and a VAE works at any size."""

ONNX_DATA = (".onnx_data", ".onnx.data", *(f".onnx_data_{i}" for i in range(1, 100)))
"""How the names of files usually end that hold an ONNX model's tensors, large ones in pieces; the model says which."""

OTHER_WEIGHTS = (*PICKLE_SUFFIXES, ".safetensors", ".h5", ".msgpack", ".onnx", *ONNX_DATA, ".gguf", ".index.json")
"""How the names of weights end, in any format: what is not rescaled of these would be the old weights."""


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


def onnx_of(source: StrPath) -> Path | None:
    """The ONNX model that `source` is, or that is all the weights of the folder `source` or of its folder `onnx`.

    Raises
    ------
    RekernelError
        For several models and nothing else to choose.

    Examples
    --------
    >>> str(onnx_of("net.onnx")), onnx_of("net.safetensors")
    ('net.onnx', None)
    """
    source = Path(source)
    if not source.is_dir():
        return source if source.suffix.lower() == ".onnx" else None
    if (source / "model_index.json").exists():
        return None
    for folder in (source, source / "onnx"):
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
        weights = [n for n in names if n.lower().endswith(OTHER_WEIGHTS) and not n.lower().endswith(ONNX_DATA)]
        models = [n for n in weights if n.lower().endswith(".onnx")]
        if len(models) == 1:  # whose data may have any name
            weights = [n for n in weights if n in models or not _names(folder / models[0], n)]
        if not weights:
            continue
        if models != weights:
            return None
        if len(models) > 1:
            listed = ", ".join(map(shown, models[:6])) + (f", ... ({len(models)})" if len(models) > 6 else "")
            raise RekernelError(f"{shown_path(folder)}: several ONNX models here ({listed}); pass the path of one.")
        return contained(source, (folder / models[0]).relative_to(source).as_posix())
    return None


def _names(model: Path, file: str) -> bool:
    """Whether an ONNX model says that tensors lie in `file`: names stand in it as they are."""
    if not file.endswith(".bin") or model.stat().st_size == 0:  # empty: it stands for one that was not fetched
        return False
    with os.fdopen(open_regular(model), "rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(file.encode()) >= 0


def plain_candidate(component: Component) -> Path | None:
    """The component's weights; of plain ones and variants (.fp16) together the plain ones, as diffusers loads them."""
    plain = [p for p in component.candidates if not split_variant(p.name.partition(".safetensors")[0])[1]]
    plain = [p for p in plain if not re.search(r"\.index\.[\w-]+\.json$", p.name)]
    if len(component.candidates) > 1 and len(plain) == 1:
        return plain[0]
    return component.checkpoint


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
