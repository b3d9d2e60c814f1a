"""Find the part of a tensor that this process holds, and read that part alone from a file.

Scope: the indices along each axis, and the byte ranges that they are in a file. Not here: which tensors a module has
(see `torch.files.save_load`). torch's own `HuggingFaceStorageReader` reads parts as well, but only from a folder, and
only under the names that the tensors have in the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import RekernelError
from ...escape import shown

_PAGE = 4096
"""Bytes that a disk reads at once. Where pieces are many and shorter, what lies between them is read too."""
_MANY = 1024
_BLOCK = 1 << 23
"""Bytes that are read at once where pieces are many and short."""
Run = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """The part of a tensor that one process holds: indices along each axis, of which the part has every combination.

    shape : of the whole tensor
    runs : for each axis the indices, as disjoint runs (start, stop) in the order of the part

    Examples
    --------
    >>> part = Part((4, 3), (((1, 3),), ((0, 1), (2, 3))))
    >>> part.local_shape
    (2, 2)
    >>> part.of(torch.arange(12).reshape(4, 3)).tolist()
    [[3, 5], [6, 8]]
    """

    shape: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        return tuple(sum(stop - start for start, stop in runs) for runs in self.runs)

    def of(self, whole: Tensor) -> Tensor:
        """The part of a whole tensor."""
        for axis, runs in enumerate(self.runs):
            whole = whole.index_select(axis, torch.from_numpy(_indices(runs)))
        return whole

    def read(self, read_range: Callable[[int, int], bytes | bytearray], itemsize: int) -> bytearray:
        """The bytes of the part, in C order.

        Parameters
        ----------
        read_range : function
            Gives the bytes of the whole tensor from a start to a stop.
        itemsize : bytes of an element
        """
        parted = [axis for axis, n in enumerate(self.shape) if self.runs[axis] != ((0, n),)]
        axis = max(parted, default=0)
        unit = itemsize * math.prod(self.shape[axis + 1 :])
        runs, length = (self.runs[axis], self.shape[axis]) if self.shape else (((0, 1),), 1)
        local = bytearray(itemsize * math.prod(self.local_shape))
        if not local:
            return local
        rows = _rows(self.shape[:axis], self.runs[:axis])
        if min(stop - start for start, stop in runs) * unit >= _PAGE or len(rows) * len(runs) <= _MANY:
            place = 0
            for row in rows.tolist():
                for start, stop in runs:
                    first = (row * length + start) * unit
                    size = (stop - start) * unit
                    local[place : place + size] = read_range(first, first + size)
                    place += size
            return local
        columns, view = _indices(runs), np.frombuffer(local, np.uint8).reshape(len(rows), -1, unit)
        done = 0
        for start, stop in _neighbours(rows, max(1, _BLOCK // (length * unit))):
            data = np.frombuffer(read_range(start * length * unit, stop * length * unit), np.uint8)
            view[done : done + stop - start] = data.reshape(stop - start, length, unit)[:, columns]
            done += stop - start
        return local


def local_part(tensor: Any) -> Part:
    """The part of a DTensor that this process holds, by its mesh and placements. Nothing is sent to other processes.

    Raises
    ------
    RekernelError
        If the processes hold sums of which the tensor is the total (a `Partial` placement): those cannot be loaded.
    """
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh, shape, placements = tensor.device_mesh, tuple(tensor.shape), tensor.placements
    if mesh.get_coordinate() is None:  # another process holds all
        return Part(shape, tuple(() for _ in shape))
    if any(placement.is_partial() for placement in placements):
        raise RekernelError(f"placements {shown(str(placements))}: hold sums, which cannot be loaded or saved")
    runs: list[tuple[Run, ...]] = []
    for axis, n in enumerate(shape):
        # The indices of an axis are sharded as the tensor is: so torch's own rules for uneven parts hold.
        own = [_along_first(p) if getattr(p, "dim", None) == axis else Replicate() for p in placements]
        if all(isinstance(p, Replicate) for p in own):
            runs.append(((0, n),))
            continue
        indices = distribute_tensor(torch.arange(n, device=mesh.device_type), mesh, own, src_data_rank=None)
        runs.append(_runs(indices.to_local().cpu().numpy()))
    return Part(shape, tuple(runs))


def mesh_device(tensor: Any) -> torch.device:
    """The device of this process in the mesh of a DTensor."""
    kind = tensor.device_mesh.device_type
    return torch.device(kind) if kind == "cpu" else torch.empty(0, device=kind).device


def from_part(old: Any, value: Tensor) -> Tensor:
    """A DTensor in place of one on the meta device, with the dtype of `value`, which is this process's part."""
    new: Any = torch.empty_like(old, dtype=value.dtype, device=mesh_device(old))
    new.to_local().copy_(value)
    return cast(Tensor, new)


def _along_first(placement: Any) -> Any:
    """The placement that shards a vector as this one shards its axis."""
    from torch.distributed.tensor import Shard

    factor = getattr(placement, "split_factor", None)
    return Shard(0) if factor is None else type(placement)(0, split_factor=factor)


def _runs(indices: NDArray[Any]) -> tuple[Run, ...]:
    """Runs of neighbours.

    Examples
    --------
    >>> _runs(np.array([0, 1, 4, 5, 6])), _runs(np.array([]))
    (((0, 2), (4, 7)), ())
    """
    if not len(indices):
        return ()
    parts = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)


def _indices(runs: Sequence[Run]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(start, stop) for start, stop in runs] or [np.arange(0)])


def _rows(shape: Sequence[int], runs: Sequence[Sequence[Run]]) -> NDArray[np.int64]:
    """The numbers of the rows of an axis, counted over the axes before it.

    Examples
    --------
    >>> _rows((2, 3), [((1, 2),), ((0, 1), (2, 3))]).tolist()
    [3, 5]
    """
    rows = np.zeros(1, np.int64)
    for n, own in zip(shape, runs, strict=True):
        rows = (rows[:, None] * n + _indices(own)).reshape(-1)
    return rows


def _neighbours(rows: NDArray[np.int64], most: int) -> Iterator[Run]:
    """Runs of neighbouring rows, of at most `most` rows."""
    for start, stop in _runs(rows):
        for first in range(start, stop, most):
            yield first, min(first + most, stop)
