"""Share a conversion out: `--jobs`, `--dask`, `--part` and `--finish` of `rekernel convert`.

Scope: these options, and the executor that each asks for. Not here: the tasks (see `rekernel.conversion.workers`).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from . import values
from .main import Failure
from .options import Command, option

WORKERS = "Workers"
_SECONDS = 10
"""How long to wait for a scheduler of Dask to answer."""

_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    option("--jobs", group=WORKERS, rare=True, type=click.IntRange(1, 1024), metavar="N",
           help="Write the files of weights by N processes, each with one thread. Without it, one process writes one "
                "file after the other, on all cores."),
    option("--dask", group=WORKERS, rare=True, metavar="ADDRESS",
           help="Write the files of weights by the workers of a Dask scheduler (tcp://host:8786, or a scheduler file), "
                "which see the same folders."),
    option("--part", group=WORKERS, rare=True, type=values.part, metavar="K/N",
           help="Write share K of N aside; the runs of all shares, with the same options, need not know each other."),
    option("--finish", group=WORKERS, rare=True, is_flag=True,
           help="Make TARGET of what all --part runs wrote; give the same options."),
)  # fmt: skip


def worker_options(command: Command) -> Command:
    """Add the options to a command, which gets them as one `Workers` in the argument `workers`."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


@dataclass(frozen=True)
class Workers:
    """What was asked for, at most one of four."""

    jobs: int | None = None
    dask: str | None = None
    part: str | None = None
    finish: bool = False

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("jobs", "dask", "part", "finish") if getattr(self, name) not in (None, False)]
        if given == ["--part", "--finish"]:
            raise click.UsageError("--finish comes after the runs of all parts, in a run of its own.")
        if len(given) > 1:
            raise click.UsageError(f"{given[0]} and {given[1]} are two ways to share a conversion out; give one.")

    @contextmanager
    def keywords(self) -> Iterator[dict[str, Any]]:
        """The arguments of `rekernel.convert`, with an executor that ends with the `with` block."""
        if self.jobs is not None:
            with _processes(self.jobs) as executor:
                yield {"executor": executor}
        elif self.dask is not None:
            with _dask(self.dask) as executor:
                yield {"executor": executor}
        else:
            yield {"part": self.part, "finish": self.finish}


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    class Processes(ProcessPoolExecutor):
        """Processes that Ctrl-C, which a terminal sends to all of them at once, ends without a traceback."""

        def submit(self, *work: Any, **keywords: Any) -> Future[Any]:
            with _interrupts_held():  # a process that starts here holds them too, until `_end_quietly` runs there
                future = super().submit(*work, **keywords)
            future.__class__ = _Future
            return future

    # Processes that are begun anew: a fork of a process with threads may hang.
    with Processes(count, mp_context=get_context("spawn"), initializer=_end_quietly) as pool:
        yield pool


class _Future(Future[Any]):
    def set_exception(self, exception: BaseException | None) -> None:
        """Take what the executor says when its processes have ended; it says so of cancelled futures as well."""
        with suppress(InvalidStateError):
            super().set_exception(exception)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_quietly() -> None:
    """Let Ctrl-C end this process without a traceback, and end it with the process that started it.

    A process that outlives a killed parent would write files into a folder that the next run believes to be its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    from rekernel.escape import inert, shown

    try:
        import distributed
    except ImportError:
        raise Failure("--dask needs Dask: pip install distributed") from None
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what they say of lost workers, our message says
    place = "address"
    if address.endswith(".json"):
        _check_scheduler_file(address)  # Dask waits for ever for a file that is not there
        place = "scheduler_file"
    try:
        connect: Any = distributed.Client
        client = connect(**{place: address}, timeout=_SECONDS)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise Failure(f"--dask {shown(address)}: no scheduler answers there ({inert(str(error))[:200]}).") from None
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise Failure(f"--dask {shown(address)}: the scheduler has no workers; start some: dask worker {address}")
        yield client.get_executor()


def _check_scheduler_file(path: str) -> None:
    """Raise if a file is not what a scheduler of Dask writes: a JSON object with an address."""
    from rekernel.checkpoint.strict_json import read_object
    from rekernel.escape import shown

    if not Path(path).is_file():
        raise Failure(f"--dask {shown(path)}: no such scheduler file; dask scheduler --scheduler-file writes one.")
    if not isinstance(read_object(path, "scheduler file").get("address"), str):
        raise Failure(f"--dask {shown(path)}: holds no address, so no scheduler has written it.")
