"""Index files: which shard holds a tensor, what a pipeline is made of.

Knows their JSON, read as strictly as a header, and their names; no shard is opened here, no folder is listed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .file_kind import foreign_format, open_regular
from .header import MAX_HEADER
from .paths import check_plain
from .strict_json import strict_json

INDEX_NAME = re.compile(r".+\.safetensors\.index(\.[\w-]+)?\.json")


def read_index(path: Path, what: str = "index") -> dict[str, object]:
    """The object in a JSON file; `what` it is called in a message."""
    where = shown_path(path)
    fd = open_regular(path)
    with os.fdopen(fd, "rb") as file:
        raw = file.read(MAX_HEADER + 1)
    if len(raw) > MAX_HEADER:
        raise CheckpointError(f"{where}: over {MAX_HEADER} bytes, too large for its kind ({what}).")
    if not raw.lstrip().startswith(b"{"):
        why = foreign_format(raw[:512]) or (f"no JSON object, as a {what} has to be.",)
        raise CheckpointError(f"{where}: ", *why)
    parsed = strict_json(raw, where, what)
    assert isinstance(parsed, dict)  # it starts with a brace
    return parsed


def weight_map(path: Path, index: dict[str, object]) -> dict[str, str]:
    """The shard of each tensor, a plain file name, from the index that was read from `path`."""
    where, weights = shown_path(path), index.get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{where}: no weight_map of tensor names to file names, as an index has to have.")
    if not isinstance(index.get("metadata", {}), dict):
        raise CheckpointError(f"{where}: its metadata is not an object.")
    for name, shard in weights.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{where}: weight_map of tensor {shown(name)} is not a file name.")
    for shard in set(weights.values()):
        check_plain(shard, f"{where}: shard")
    return weights
