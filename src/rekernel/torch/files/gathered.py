"""Write tensors of which each process holds a part: one process writes, all join the parts, one tensor at a time.

Scope: processes, and that all of them raise if one cannot write. Not here: the file (see `torch.files.save_load`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ...errors import RekernelError
from ..wrapped import is_sharded

Write = Callable[[Iterable[tuple[str, Tensor]]], None]


def write_gathered(state: Mapping[str, Tensor], write: Write) -> None:
    """Let process 0 write whole tensors. Every process calls this, and returns when the file is complete.

    Parameters
    ----------
    state : tensors by name, the same names in each process
    write : function that writes pairs of name and tensor

    Raises
    ------
    RekernelError
        In every process, if process 0 cannot write.
    """
    import torch.distributed as dist

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


def _whole(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        part: Any = value.detach()
        yield name, part.full_tensor() if is_sharded(value) else part
