"""Hand tasks to an executor, take the results as they come, and leave no task running after a failure.

The digests of the source come first, since every file that is written holds all of them.
Scope: futures. Not here: what a task does (see `conversion.workers.task`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, as_completed, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from ...errors import RESUME, RekernelError
from ...escape import shown
from ...plan.recipe import KEY
from ...sources.store_address import StoreAddress
from ..digests import with_digests
from .task import DigestTask, WriteTask, Written, hash_file, write_file

Task = TypeVar("Task")
Result = TypeVar("Result")
_LAG = 60.0
"""Seconds after which a shared disk shows what another machine has written, at the latest."""


def run_all(
    executor: Executor,
    work: Callable[[Task], Result],
    tasks: Mapping[str, Task],
    done: Callable[[str, Result], None],
) -> None:
    """Run every task, and call `done` in this thread with its name and result.

    Parameters
    ----------
    work : callable
        A function of a module, since it travels to other processes by name.
    tasks : mapping of str to task
        Tasks by name, such as that of a file, for messages.

    Raises
    ------
    RekernelError
        What a task raised; or that the executor lost a task, with the name of the task.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor() as pool:
    ...     run_all(pool, len, {"a": "abc"}, print)
    a 3
    """
    names: dict[Future[Result], str] = {}
    try:
        for name, task in tasks.items():
            with _explained(executor, name):
                names[_submitted(executor, work, task, name)] = name
        for future in as_completed(names):
            with _explained(executor, names[future]):
                result = future.result()
            done(names[future], result)
    except BaseException as error:
        # A task that runs goes on: the claim on the folder must not be given up before it ends. A broken executor ends
        # all tasks itself, and stumbles over one that is cancelled meanwhile (Python 3.11).
        broken = isinstance(error.__cause__, BrokenExecutor)
        wait([future for future in names if broken or not future.cancel()])
        raise


def write_all(
    executor: Executor,
    tasks: Mapping[str, WriteTask],
    *,
    finished: Callable[[str, WriteTask], bool],
    begin: Callable[[str], None],
    done: Callable[[str, Written], None],
) -> None:
    """Hash the files of the sources, then write all files of weights.

    Parameters
    ----------
    tasks : mapping of str to WriteTask
        Tasks by name; the metadata have placeholders for the digests.
    finished : callable
        Called with each name and its task, whose metadata now have the digests: whether an interrupted run has finished
        this file.
    begin : callable
        Called with the name of each task before it is handed out.
    done : callable
        Called with the name and the result of each task.
    """
    run = uuid4().hex
    sources = {id(task.source): task.source for task in tasks.values()}
    files = {
        str(shard.path): DigestTask(source, index, run)
        for source in sources.values()
        for index, shard in enumerate(source.shards)
    }
    digests: dict[tuple[int, int], str] = {}

    def hashed(name: str, digest: str) -> None:
        digests[id(files[name].source), files[name].index] = digest

    run_all(executor, hash_file, files, hashed)
    resolved = {
        name: replace(task, run=run, target=_anywhere(task), metadata={
            **task.metadata, KEY: with_digests(task.metadata[KEY], [
            digests[id(task.source), index] for index in range(len(task.source.shards))
        ])})
        for name, task in tasks.items()
    }  # fmt: skip
    open_tasks = {name: task for name, task in resolved.items() if not finished(name, task)}
    for name in open_tasks:
        begin(name)
    run_all(executor, write_file, open_tasks, done)


def refuse_unseen(where: str, size: Callable[[], int | None], nbytes: int, *, lag: float = _LAG) -> None:
    """Raise if a worker has written a file where this process does not see the file, such as on a disk of its own.

    Parameters
    ----------
    where : the file, for the message
    size : callable
        Bytes of the file as this process sees them; None if the file is not there.
    nbytes : bytes that the worker has written
    lag : seconds after which this process sees what a worker has written, at the latest

    Examples
    --------
    >>> refuse_unseen("a", lambda: 5, 5)
    """
    until = time.monotonic() + lag
    while (found := size()) != nbytes:
        if time.monotonic() >= until:
            seen = "does not see the file" if found is None else f"sees {found} bytes of {nbytes}"
            raise RekernelError(
                f"{where}: a worker has written this file, but this process {seen}; let all workers see the same disk "
                f"or store (memory:// is in the memory of one process)"
            )
        time.sleep(0.2)


def _anywhere(task: WriteTask) -> Path | StoreAddress:
    """The target for a worker whose current folder is another one."""
    return task.target.absolute() if isinstance(task.target, Path) else task.target


def _submitted(executor: Executor, work: Callable[[Task], Result], task: Task, name: str) -> Future[Result]:
    try:
        return executor.submit(work, task)
    except RuntimeError as error:
        if isinstance(error, BrokenExecutor | NotImplementedError) or _takes_tasks(executor):
            raise
        raise RekernelError(
            f"{shown(name)}: the executor was shut down before it took this file; pass another one, and ",
            RESUME,
            " to go on",
        ) from error


def _takes_tasks(executor: Executor) -> bool:
    try:
        executor.submit(int)
    except RuntimeError:
        return False
    return True


@contextmanager
def _explained(executor: Executor, name: str) -> Iterator[None]:
    """Turn what the executor itself raises into one line. An error of the task passes."""
    try:
        yield
    except RekernelError:
        raise
    except CancelledError as error:
        raise RekernelError(
            f"{shown(name)}: the task of this file was cancelled, as happens where the scheduler ends; pass ",
            RESUME,
            " to go on",
        ) from error
    except Exception as error:
        if not _is_of(executor, error):
            raise
        raise RekernelError(
            f"{shown(name)}: the worker that had this file was lost ({type(error).__name__}); such a process is often "
            f"ended for want of memory: use fewer workers, and pass ",
            RESUME,
            " to go on",
        ) from error


def _is_of(executor: Any, error: Exception) -> bool:
    """Whether an exception tells of the executor, and not of the task."""
    own = type(executor).__module__.partition(".")[0]
    return isinstance(error, BrokenExecutor) or type(error).__module__.partition(".")[0] == own
