"""Hand tasks to an executor, take the results as they come, and leave no task running after a failure.

The digests of the source come first, since every file that is written holds all of them.
Scope: futures. Not here: what a task does (see `conversion.workers.task`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, as_completed, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from ...errors import RESUME, RekernelError
from ...escape import shown
from ...plan.recipe import KEY
from ..digests import with_digests
from .task import DigestTask, WriteTask, Written, hash_file, write_file

Task = TypeVar("Task")
Result = TypeVar("Result")


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
                names[executor.submit(work, task)] = name
        for future in as_completed(names):
            with _explained(executor, names[future]):
                result = future.result()
            done(names[future], result)
    except BaseException:
        # A task that runs goes on: the claim on the folder must not be given up before it ends.
        wait([future for future in names if not future.cancel()])
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
        f"{number}: {shard.path.name}": DigestTask(source, index, run)
        for number, source in enumerate(sources.values())
        for index, shard in enumerate(source.shards)
    }
    digests: dict[tuple[int, int], str] = {}

    def hashed(name: str, digest: str) -> None:
        digests[id(files[name].source), files[name].index] = digest

    run_all(executor, hash_file, files, hashed)
    resolved = {
        name: replace(task, run=run, metadata={**task.metadata, KEY: with_digests(task.metadata[KEY], [
            digests[id(task.source), index] for index in range(len(task.source.shards))
        ])})
        for name, task in tasks.items()
    }  # fmt: skip
    open_tasks = {name: task for name, task in resolved.items() if not finished(name, task)}
    for name in open_tasks:
        begin(name)
    run_all(executor, write_file, open_tasks, done)


@contextmanager
def _explained(executor: Executor, name: str) -> Iterator[None]:
    """Turn what the executor itself raises into one line. An error of the task passes."""
    try:
        yield
    except RekernelError:
        raise
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
    return isinstance(error, BrokenExecutor | CancelledError) or type(error).__module__.partition(".")[0] == own
