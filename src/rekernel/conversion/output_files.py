"""Decide which files a conversion writes: their names, the tensors in each, and the index that lists them.

Scope: plans, shards and sizes. Not here: writing (see `conversion.run`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..checkpoint.dtypes import FLOATS
from ..checkpoint.header import tensor_nbytes
from ..checkpoint.tensor_source import Checkpoint, TensorSource
from ..checkpoint.variants import split_name
from ..errors import RekernelError
from ..escape import shown, shown_path
from ..plan.changes import LayerChange
from ..plan.plan import Plan
from ..plan.serialization import check_change


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the destination: the change that produces it, and its new dtype."""

    change: LayerChange
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the destination."""
        return tensor_nbytes(self.dtype, self.change.new_shape, self.change.name)


@dataclass(frozen=True)
class OutputFile:
    """A safetensors file to write: its name in the destination folder and its tensors."""

    name: str
    tensors: tuple[OutputTensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors, without the header."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Outputs:
    """All files of one converted checkpoint.

    files : files with tensors
    stem : part that all file names share
    index_name : name of the index; empty for a single file
    """

    files: tuple[OutputFile, ...]
    stem: str
    index_name: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(file.nbytes for file in self.files)

    def index(self, source: TensorSource) -> bytes:
        """Write the index as huggingface_hub does. Other metadata of the source's index is kept."""
        source_index = source.index if isinstance(source, Checkpoint) else None
        metadata: dict[str, Any] = dict((source_index or {}).get("metadata") or {})  # type: ignore[call-overload]
        metadata["total_size"] = self.nbytes
        if metadata.get("total_parameters") == sum(math.prod(info.shape) for info in source.tensors.values()):
            new_shapes = (tensor.change.new_shape for file in self.files for tensor in file.tensors)
            metadata["total_parameters"] = sum(map(math.prod, new_shapes))
        weight_map = {tensor.change.name: file.name for file in self.files for tensor in file.tensors}
        document = {**(source_index or {}), "metadata": metadata, "weight_map": weight_map}
        return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def output_tensors(source: TensorSource, plan: Plan, dtype: str | None) -> list[OutputTensor]:
    """List every tensor of the source with its change. A tensor that is not in the plan is kept.

    Raises
    ------
    RekernelError
        If the plan lists a tensor that the source does not have, or has with another shape or dtype.
    """
    held = sorted({info.dtype for info in source.tensors.values()})
    if dtype and held and not set(held) & set(FLOATS):
        raise RekernelError(
            f"{shown_path(source.path)}: holds only {', '.join(held)}, and only {', '.join(FLOATS)} can be cast; "
            f"omit the cast to {dtype}"
        )
    changes = {change.name: change for change in plan.changes}
    for name, change in changes.items():
        info = source.tensors.get(name)
        if info is None:
            raise RekernelError(
                f"the plan changes {shown(name)}, which is not in {shown(source.path.name)}; plan again"
            )
        if (info.shape, info.dtype) != (change.shape, change.dtype):
            raise RekernelError(
                f"the plan expects {shown(name)} as {shown(change.dtype, 20)} {list(change.shape)}, but it is "
                f"{info.dtype} {list(info.shape)}; plan again"
            )
    for change in changes.values():
        try:
            check_change(change)
        except RekernelError as error:
            raise RekernelError(f"the plan of {shown(change.name)} cannot be carried out: {error}") from None
        direction = changes.get(change.length_of)
        same = direction is not None and (direction.operators, direction.view) == (change.operators, change.view)
        if change.length_of and not same:
            raise RekernelError(
                f"the plan sets {shown(change.name)} to the length of {shown(change.length_of)}, which it changes in "
                f"another way; plan again"
            )
    tensors = []
    for name, info in source.tensors.items():
        change = changes.get(name) or LayerChange.unchanged(name, info.dtype, info.shape, "not in the plan")
        tensors.append(OutputTensor(change, dtype if dtype and info.dtype in FLOATS else info.dtype))
    return tensors


def arrange(source: TensorSource, tensors: Iterable[OutputTensor], name: str, max_shard_size: int | None) -> Outputs:
    """Distribute tensors over files: into shards as in the source, or into files of up to `max_shard_size` bytes.

    Parameters
    ----------
    name : str
        Name of the file if the result is a single file.
    max_shard_size : int, optional
        Largest size of the tensors in a file in bytes. A larger tensor gets its own file.
    """
    tensors = tuple(tensors)
    sharded = isinstance(source, Checkpoint) and source.kind == "sharded"
    if max_shard_size is None:
        if not sharded:
            return Outputs((OutputFile(name, tensors),), name.removesuffix(".safetensors"))
        by_name = {tensor.change.name: tensor for tensor in tensors}
        files = tuple(
            OutputFile(shard.path.name, tuple(by_name[tensor] for tensor in shard.header.tensors))
            for shard in source.shards
        )
        return Outputs(files, "".join(split_name(source.path.name)), source.path.name)
    if max_shard_size < 1:
        raise RekernelError(f"max_shard_size must be at least 1 byte, got {max_shard_size}")
    stem, variant = split_name(source.path.name)
    full = stem + variant
    packs = list(_packed(tensors, max_shard_size))
    if len(packs) == 1:
        return Outputs((OutputFile(f"{full}.safetensors", packs[0]),), full)
    files = tuple(
        OutputFile(f"{full}-{i:05d}-of-{len(packs):05d}.safetensors", pack) for i, pack in enumerate(packs, 1)
    )
    return Outputs(files, full, f"{stem}.safetensors.index{variant}.json")


def _packed(tensors: tuple[OutputTensor, ...], limit: int) -> Iterable[tuple[OutputTensor, ...]]:
    pack: list[OutputTensor] = []
    size = 0
    for tensor in tensors:
        if pack and size + tensor.nbytes > limit:
            yield tuple(pack)
            pack, size = [], 0
        pack.append(tensor)
        size += tensor.nbytes
    yield tuple(pack)
