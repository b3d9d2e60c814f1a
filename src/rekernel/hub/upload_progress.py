"""Progress of an upload: the bars of huggingface_hub, which are of tqdm, or a callback of the caller's own.

Scope: the argument `progress` of `push`. Not here: the upload (see `hub.upload`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import RekernelError
from ..messages.progress_bar import Progress


@contextmanager
def client_bars(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """The callback, if the caller gave one; True shows the bars of the client until the block ends, False hides them.

    A callback hides them, too. None leaves them as the client is set.
    """
    if progress is not None and not callable(progress) and not isinstance(progress, bool):
        raise RekernelError(
            f"progress={str(progress)[:80]!r} is neither True, False nor a function that takes (done, total)"
        )
    if progress is None:
        yield None
        return
    bars: Any = importlib.import_module("huggingface_hub.utils")
    hidden = bars.are_progress_bars_disabled()
    hide = progress is not True
    if hide != hidden:
        (bars.disable_progress_bars if hide else bars.enable_progress_bars)()
    try:
        yield progress if callable(progress) else None
    finally:
        if hide != hidden:
            (bars.disable_progress_bars if hidden else bars.enable_progress_bars)()


def uploaded_one_by_one(
    hf: Any, repo: str, operations: Sequence[Any], sizes: Mapping[str, int], callback: Progress, **where: Any
) -> None:
    """Upload the content of each file before the commit, and call back after each file."""
    total, done = sum(sizes.values()), 0
    callback(done, total)
    for operation in operations:
        hf.preupload_lfs_files(repo, [operation], free_memory=False, **where)
        done += sizes[operation.path_in_repo]
        callback(done, total)
