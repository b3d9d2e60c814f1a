"""Lay a result out so that a file system can share the blocks of what does not change with the source.

btrfs, xfs and others let two files have blocks of the disk in common (reflink), where both begin at a multiple of 4096
bytes. The header of a result is longer than that of its source, so its data would lie at other positions. Spaces at the
end of the header, which the format allows, bring the data back to the source's position modulo 4096.
Scope: how many spaces. Not here: the copy (see `Checkpoint.send_range`).
"""

from __future__ import annotations

from collections import Counter

from ..checkpoint.header import BLOCK, build_header
from ..checkpoint.tensor_source import TensorSource
from .output_files import OutputFile

_LEAST = 16 << 20
"""Bytes that have to be gained: a small file is not made larger for less."""


def data_at(source: TensorSource, file: OutputFile) -> int | None:
    """Where the data of a result should begin, modulo 4096; None where it does not matter."""
    if not source.shards:
        return None
    _, infos = build_header([(t.change.name, t.dtype, t.change.new_shape) for t in file.tensors])
    begins = {name: shard.header.data_start for shard in source.shards for name in shard.header.tensors}
    gained: Counter[int] = Counter()
    for tensor in file.tensors:
        name = tensor.change.name
        if tensor.change.kept and tensor.dtype == tensor.change.dtype:
            there = begins[name] + source.tensors[name].start
            gained[(there - infos[name].start) % BLOCK] += infos[name].nbytes
    [(best, nbytes)] = gained.most_common(1) or [(0, 0)]
    return best if nbytes >= _LEAST and best % 8 == 0 else None
