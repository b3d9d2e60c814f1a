"""Which checkpoints a folder holds, an index standing for its shards.

Knows file names and what an index lists; no header is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .file_kind import ALLOW_PICKLE
from .paths import contained
from .shard_index import INDEX_NAME, read_index, weight_map

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}(\.[\w-]+)?\.safetensors")


def candidates_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The checkpoints in a folder, each index standing for its shards; and these shards."""
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
        whose = "its *.safetensors.index.json is missing" if not indices else f"not in {shown(indices[0])}"
        raise CheckpointError(
            f"{shown_path(folder / orphan)}: one shard of several, {whose}; download the folder again."
        )
    return [folder / name for name in (*indices, *files)], [folder / name for name in sorted(listed)]


def only_candidate(folder: Path, allow_pickle: bool) -> Path:
    """The only checkpoint in a folder."""
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
            f"{shown_path(folder)}: a diffusers pipeline; pass the folder of one component, such as unet."
        )
    if pickles:
        raise CheckpointError(
            f"{shown_path(folder)}: no safetensors, only pickles ({shown(pickles[0].name)}), which can run code; "
            "convert to safetensors, or pass ",
            ALLOW_PICKLE,
            ".",
        )
    raise CheckpointError(f"{shown_path(folder)}: no .safetensors file and no *.safetensors.index.json in this folder.")


def ambiguous(folder: Path, candidates: Iterable[Path]) -> CheckpointError:
    """What is said of a folder with several, where one is needed."""
    names = [shown(path.name) for path in candidates]
    listing = ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "")
    return CheckpointError(f"{shown_path(folder)}: several checkpoints here ({listing}); pass the path of one.")
