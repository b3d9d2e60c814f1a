"""Read the index of a sharded checkpoint: which shard holds each tensor.

Scope: the JSON of an index, parsed as strictly as a header, and the names in it. Not here: opening shards (see
`checkpoint.open_local`).
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .file_kind import DOWNLOAD_AGAIN
from .header import MAX_HEADER
from .paths import check_plain
from .strict_json import read_object

INDEX_NAME = re.compile(r".+\.safetensors\.index(\.[\w-]+)?\.json")


def read_index(path: Path, what: str = "index") -> dict[str, object]:
    """Read the object in a JSON file. `what` is the name of this kind of file in messages."""
    return read_object(path, what, MAX_HEADER)


def weight_map(path: Path, index: dict[str, object]) -> dict[str, str]:
    """Return the shard of each tensor, a plain file name, from the `index` that was read from `path`."""
    where, weights = shown_path(path), index.get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{where}: the index has no weight_map of tensor names to file names; {DOWNLOAD_AGAIN}")
    if not isinstance(index.get("metadata", {}), dict):
        raise CheckpointError(f"{where}: its metadata is not an object.")
    for name, shard in weights.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{where}: the weight_map entry of tensor {shown(name)} is not a file name.")
    for shard in set(weights.values()):
        check_plain(shard, f"{where}: shard")
    return weights
