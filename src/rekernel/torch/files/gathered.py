"""Write tensors of which each process holds a part: one process writes, all join the parts, one tensor at a time.

Scope: processes, and that all of them raise if one cannot write. Not here: the file (see `torch.files.save_load`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from torch import Tensor

from ...errors import RekernelError
from ...escape import shown_path
from ..wrapped import is_sharded

Write = Callable[[Iterable[tuple[str, Tensor]]], None]


def write_gathered(state: Mapping[str, Tensor], write: Write, path: str) -> None:
    """Let process 0 write whole tensors. Every process calls this, and returns when the file is complete.

    Parameters
    ----------
    state : tensors by name, the same names in each process
    write : function that writes pairs of name and tensor
    path : the file, as this process names it

    Raises
    ------
    RekernelError
        In every process, if process 0 cannot write, or if the processes save different tensors or name different files.
    """
    import torch.distributed as dist

    _refuse_different(state, path)
    whole = _whole(state)
    failed: Exception | None = None
    if dist.get_rank() == 0:
        try:
            write(whole)
        except Exception as error:  # raised below, when the other processes no longer wait
            failed = error
    for _ in whole:  # what is left: joining the parts of a tensor takes every process
        pass
    told: list[Any] = [str(failed) if failed is not None else None]
    dist.broadcast_object_list(told, src=0)
    if failed is not None:
        raise failed
    if told[0] is not None:
        raise RekernelError(f"process 0 could not save: {told[0]}")


def _refuse_different(state: Mapping[str, Tensor], path: str) -> None:
    """Raise if another process saves something else, such as another stage of a pipeline: process 0 alone writes."""
    import torch.distributed as dist

    shapes = sha256(str([(name, tuple(value.shape)) for name, value in state.items()]).encode()).hexdigest()
    given: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(given, (path, shapes))
    other = next((rank for rank, one in enumerate(given) if one != given[0]), None)
    if other is not None:
        raise RekernelError(
            f"process {other} saves {shown_path(given[other][0])}, and process 0 {shown_path(given[0][0])}, or other "
            f"tensors: of the processes that save together, process 0 writes one file; nothing was saved. Name one "
            "file in all of them; save the stages of a pipeline in jobs of their own"
        )


def _whole(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        part: Any = value.detach()
        yield name, part.full_tensor() if is_sharded(value) else part
