"""Find the checkpoints in a folder. An index stands for its shards.

Scope: file names, and the shards that an index lists. Not here: reading a header (see `checkpoint.header`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from mmap import ACCESS_READ, mmap
from pathlib import Path

from ..errors import CheckpointError, RekernelError, SeveralCheckpointsError
from ..escape import shown, shown_path
from .file_kind import ALLOW_PICKLE, open_regular
from .paths import StrPath, contained
from .shard_index import INDEX_NAME, read_index, weight_map

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}(\.[\w-]+)?\.safetensors")


def candidates_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the checkpoints in a folder, and the shards that the indices among them list."""
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError as error:
        raise CheckpointError(f"{shown_path(folder)}: {error.strerror}.") from None
    indices = [name for name in names if INDEX_NAME.fullmatch(name)]
    paths = (contained(folder, name) for name in indices)
    listed = {shard for path in paths for shard in weight_map(path, read_index(path)).values()}
    files = [name for name in names if name.lower().endswith(".safetensors") and name not in listed]
    orphan = next((name for name in files if _SHARD.fullmatch(name) and "-of-00001" not in name), None)
    if orphan is not None:
        whose = (
            "but their *.safetensors.index.json is missing"
            if not indices
            else f"but {shown(indices[0])} does not list it"
        )
        raise CheckpointError(
            f"{shown_path(folder / orphan)}: is one of several shards, {whose}; download the folder again."
        )
    return [folder / name for name in (*indices, *files)], [folder / name for name in sorted(listed)]


def only_candidate(folder: Path, allow_pickle: bool) -> Path:
    """Return the only checkpoint in a folder; raise if there is none, or several."""
    candidates, _ = candidates_in(folder)
    pickles = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICKLE_SUFFIXES and not p.name.startswith("."))
    if not candidates and allow_pickle:
        candidates = pickles
    if len(candidates) > 1:
        raise ambiguous(folder, candidates)
    if candidates:
        return contained(folder, candidates[0].name)
    if (folder / "model_index.json").exists():
        raise CheckpointError(
            f"{shown_path(folder)}: is a diffusers pipeline; pass the folder of one component, such as unet."
        )
    if pickles:
        raise CheckpointError(
            f"{shown_path(folder)}: has no safetensors file, only pickles ({shown(pickles[0].name)}), which can run "
            "code; convert to safetensors, or pass ",
            ALLOW_PICKLE,
            ".",
        )
    raise CheckpointError(
        f"{shown_path(folder)}: has neither a .safetensors file nor a *.safetensors.index.json; pass "
        f"the folder or the file with the weights."
    )


def ambiguous(folder: Path, candidates: Iterable[Path]) -> SeveralCheckpointsError:
    """Return the error for a folder with several checkpoints where one is needed."""
    names = [shown(path.name) for path in candidates]
    listing = ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")
    return SeveralCheckpointsError(f"{shown_path(folder)}: several checkpoints here ({listing}); pass the path of one.")


ONNX_DATA = (".onnx_data", ".onnx.data", *(f".onnx_data_{i}" for i in range(1, 100)))
"""How the names of files usually end that hold an ONNX model's tensors, large ones in pieces; the model says which."""


OTHER_WEIGHTS = (*PICKLE_SUFFIXES, ".safetensors", ".h5", ".msgpack", ".onnx", *ONNX_DATA, ".gguf", ".index.json")
"""How the names of weights end, in any format: what is not rescaled of these would be the old weights."""


def onnx_of(source: StrPath) -> Path | None:
    """Return the ONNX model that `source` names: the file, or the only weights in the folder or its `onnx` folder.

    None for any other source.

    Raises
    ------
    RekernelError
        If the folder holds several ONNX models and no other weights.

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
        if len(models) == 1:  # the files with its tensors may have any name
            weights = [n for n in weights if n in models or not _names(folder / models[0], n)]
        if not weights:
            continue
        if models != weights:
            return None
        if len(models) > 1:
            listed = ", ".join(map(shown, models[:6])) + (f", ... ({len(models)})" if len(models) > 6 else "")
            raise RekernelError(f"{shown_path(folder)}: has several ONNX models ({listed}); pass the path of one.")
        return contained(source, (folder / models[0]).relative_to(source).as_posix())
    return None


def _names(model: Path, file: str) -> bool:
    """Whether an ONNX model refers to `file` for its tensors: the file holds such names as plain bytes."""
    if not file.endswith(".bin") or model.stat().st_size == 0:  # empty: a stand-in for a model that was not downloaded
        return False
    with os.fdopen(open_regular(model), "rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(file.encode()) >= 0
