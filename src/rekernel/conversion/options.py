"""The options of a conversion that do not depend on the plan.

Scope: one record. Not here: what the options mean (see `offline.convert`).
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from ..messages.progress_bar import Progress
from .workers.part import Part


@dataclass(frozen=True)
class Options:
    """The options of a conversion that do not depend on the plan, as documented in `offline.convert`.

    on_disk : whether the result goes to this disk, whose free space is then checked
    executor : what writes the files of weights; None for this thread and threads of its own
    part : which share of the files to write aside; None for all of a conversion
    finish : whether the files of weights are those that parts have written aside
    """

    dtype: str | None
    max_shard_size: int | None
    resume: bool
    force: bool
    allow_cast: bool
    allow_pickle: bool
    progress: Progress | None
    on_disk: bool = True
    executor: Executor | None = None
    part: Part | None = None
    finish: bool = False
