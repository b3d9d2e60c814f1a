"""Open a checkpoint on this disk: a file, an index with its shards, or a folder that holds one of them.

Scope: what a path leads to. Not here: reading tensors (see `checkpoint.tensor_source`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown, shown_path
from ..messages.log import logger
from .discover import PICKLE_SUFFIXES, only_candidate
from .file_kind import is_pickle, open_regular
from .header import MAX_HEADER
from .paths import StrPath, contained, missing
from .shard import Shard, shard_of_file
from .shard_index import INDEX_NAME, read_index, weight_map
from .tensor_source import Checkpoint, TensorSource

_LOG = logger(__name__)

_BESIDE_WEIGHTS = ("model_index.json", "config.json", "adapter_config.json", "preprocessor_config.json")


def open_checkpoint(
    path: StrPath, *, allow_pickle: bool = False, read_shard: Callable[[Path], Shard] | None = None
) -> TensorSource:
    """Open a `.safetensors` file, a `*.safetensors.index.json`, or a folder with exactly one of them.

    Parameters
    ----------
    path : path
        The file or folder. Headers are read and checked now; data is read on demand.
    allow_pickle : bool
        Also accept .bin, .pt, .pth and .ckpt, read by torch with `weights_only=True`.
    read_shard : callable, optional
        Function that returns the header of a file; by default the header is read from the disk.

    Returns
    -------
    source : Checkpoint, or PickleCheckpoint for a pickle

    Examples
    --------
    >>> open_checkpoint("weights.ckpt")
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: weights.ckpt: no such file or folder.
    """
    path = Path(path)
    _LOG.debug("opened: %s", shown_path(path))
    read_shard = read_shard or shard_of_file
    where = shown_path(path)
    if not path.exists():
        raise missing(path)
    if path.is_dir():
        path = only_candidate(path, allow_pickle)
        where = shown_path(path)
    if INDEX_NAME.fullmatch(path.name):
        return _open_sharded(path, read_shard)
    named_pickle = path.suffix.lower() in PICKLE_SUFFIXES
    if (named_pickle and not _begins_as(path, "safetensors")) or (allow_pickle and _begins_as(path, "pickle")):
        from .pickles import PickleCheckpoint  # imports torch, so only if needed

        return PickleCheckpoint(path, allow_pickle=allow_pickle)
    if path.suffix.lower() == ".onnx":
        raise CheckpointError(
            f"{where}: an ONNX model, not a checkpoint; `rekernel plan` shows what happens to each layer."
        )
    if path.suffix.lower() == ".json":
        instead = "a .safetensors file or a *.safetensors.index.json"
        if path.name in _BESIDE_WEIGHTS:
            instead = f"its folder ({shown_path(path.parent)})"
        raise CheckpointError(f"{where}: not the index of a checkpoint; pass {instead}.")
    return Checkpoint(path, "file", (read_shard(path),))


def _open_sharded(path: Path, read_shard: Callable[[Path], Shard]) -> Checkpoint:
    where = shown_path(path)
    index = read_index(path)
    weights = weight_map(path, index)
    shards: list[Shard] = []
    home: dict[str, str] = {}
    for name in sorted(set(weights.values())):
        if not os.path.lexists(path.parent / name):
            raise CheckpointError(f"{where}: shard {shown(name)} is missing; download it into the same folder.")
        shard = read_shard(contained(path.parent, name))
        for tensor in shard.header.tensors:
            what = f"{where}: tensor {shown(tensor)}"
            if tensor in home:
                raise CheckpointError(f"{what} is in two shards, {shown(home[tensor])} and {shown(name)}.")
            if tensor not in weights:
                raise CheckpointError(f"{what} is in shard {shown(name)}, but not listed in the index.")
            home[tensor] = name
        shards.append(shard)
    for tensor, name in weights.items():
        if home.get(tensor) != name:
            really = f"; it is in {shown(home[tensor])}" if tensor in home else ""
            raise CheckpointError(f"{where}: tensor {shown(tensor)} is not in its shard {shown(name)}{really}.")
    return Checkpoint(path, "sharded", tuple(shards), index)


def _begins_as(path: Path, kind: str) -> bool:
    """Whether a file begins like this kind of file, whatever its name."""
    fd = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        prefix = file.read(512)
    # A safetensors file with a header of 640 bytes begins like a pickle. Only an impossible length tells them apart.
    plausible = int.from_bytes(prefix[:8], "little") <= MAX_HEADER
    return plausible and prefix[8:9] == b"{" if kind == "safetensors" else not plausible and is_pickle(prefix)
