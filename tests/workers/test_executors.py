"""An executor writes the bytes that one process writes, and a failure leaves what a failure of one process leaves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy as st

import rekernel as rk
from rekernel.checkpoint.locked_file import LOCK
from rekernel.conversion.workers.sharing import refuse_unseen
from rekernel.conversion.workers.task import when_free
from rekernel.errors import BusyError

from .models import contents, sharded


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sharded(tmp_path_factory.mktemp("workers") / "source")


@pytest.fixture(scope="module")
def expected(source):
    target = source.parent / "expected"
    rk.convert(source, target, scale=2)
    return contents(target)


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def test_threads_write_the_same_bytes_and_the_same_report(source, expected, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        report = rk.convert(source, tmp_path / "out", scale=2, executor=pool)
    alone = rk.convert(source, tmp_path / "alone", scale=2)
    assert contents(tmp_path / "out") == expected
    assert [path.name for path in report.files] == [path.name for path in alone.files]
    assert (report.bytes_written, report.tensors_changed) == (alone.bytes_written, alone.tensors_changed)


def test_processes_write_the_same_bytes(source, expected, tmp_path, processes):
    seen = []
    rk.convert(source, tmp_path / "out", scale=2, executor=processes, progress=lambda *now: seen.append(now))
    assert contents(tmp_path / "out") == expected
    assert seen[-1][0] == seen[-1][1]
    assert [now for now, _ in seen] == sorted(now for now, _ in seen)


def test_a_single_file_is_repacked_by_processes(tmp_path, processes):
    rng = np.random.default_rng(1)
    st.save_file(
        {f"c{i}.weight": rng.normal(size=(8, 8, 3, 3)).astype(np.float32) for i in range(6)}, tmp_path / "a.safetensors"
    )
    options = {"scale": 2, "max_shard_size": 8 * 8 * 5 * 5 * 4 * 2}
    rk.convert(tmp_path / "a.safetensors", tmp_path / "alone", **options)
    rk.convert(tmp_path / "a.safetensors", tmp_path / "out", **options, executor=processes)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert len(contents(tmp_path / "out")) == 4


def test_an_existing_result_is_replaced_whole(source, expected, tmp_path, processes):
    rk.convert(source, tmp_path / "out", scale=3)
    rk.convert(source, tmp_path / "out", scale=2, executor=processes, force=True)
    assert contents(tmp_path / "out") == expected


def test_values_that_are_not_finite_are_told_in_the_order_of_the_files(tmp_path, processes):
    folder = sharded(tmp_path / "source")
    for name in ("model-00001-of-00004.safetensors", "model-00003-of-00004.safetensors"):
        tensors = st.load_file(folder / name)
        next(w for w in tensors.values() if w.ndim == 4)[0, 0, 0, 0] = np.nan
        st.save_file(tensors, folder / name, metadata={"format": "pt"})
    alone = rk.convert(folder, tmp_path / "alone", scale=2)
    shared = rk.convert(folder, tmp_path / "out", scale=2, executor=processes)
    assert shared.notes == alone.notes
    assert len(shared.notes) == 2


class LosesTheSecondFile(Executor):
    """Runs tasks at once, and loses the second file of weights as a killed worker would."""

    def __init__(self, error: Exception) -> None:
        self.error, self.writes = error, 0

    def submit(self, work, *args, **kwargs):
        future: Future = Future()
        self.writes += work.__name__ == "write_file"
        if self.writes == 2:
            future.set_exception(self.error)
        else:
            future.set_result(work(*args, **kwargs))
        return future


class LostWorkerError(Exception):
    """Of the same package as the executor, as dask's KilledWorker is of dask's."""


def test_a_lost_worker_leaves_a_folder_to_resume_from_in_one_process(source, expected, tmp_path):
    with pytest.raises(rk.RekernelError, match=r"model-00002-of-00004.safetensors: the worker .* lost .*resume=True"):
        rk.convert(source, tmp_path / "out", scale=2, executor=LosesTheSecondFile(LostWorkerError("gone")))
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
    report = rk.convert(source, tmp_path / "out", scale=2, resume=True)
    assert report.resumed >= 1
    assert contents(tmp_path / "out") == expected


def test_a_fault_of_the_code_stays_a_traceback(source, tmp_path):
    with pytest.raises(ZeroDivisionError):
        rk.convert(source, tmp_path / "out", scale=2, executor=LosesTheSecondFile(ZeroDivisionError()))


def test_a_killed_process_is_told_in_one_line_and_resumed(source, expected, tmp_path):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pid = pool.submit(os.getpid).result()
        killer = threading.Thread(target=_kill_at_first_file, args=(pid, tmp_path / "out"))
        killer.start()
        with pytest.raises(rk.RekernelError, match="the worker that had this file was lost"):
            rk.convert(source, tmp_path / "out", scale=2, executor=pool)
        killer.join()
    assert hidden(tmp_path / "out") == [".rekernel-journal.json"]
    rk.convert(source, tmp_path / "out", scale=2, resume=True)
    assert contents(tmp_path / "out") == expected


def _kill_at_first_file(pid: int, folder: Path) -> None:
    while not list(folder.glob("*.safetensors")):
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)


def test_the_folder_stays_claimed_until_running_tasks_have_ended(source, tmp_path):
    """A task fails while another one writes: nobody may start in the folder before that one ends."""
    begun, go, claimed = threading.Event(), threading.Event(), []

    class Slow(ThreadPoolExecutor):
        def submit(self, work, *args, **kwargs):
            if work.__name__ != "write_file":
                return super().submit(work, *args, **kwargs)
            if "00001" in str(args[0].target):
                return super().submit(self.slowly, work, *args)
            return super().submit(self.fails)

        def slowly(self, work, *args):
            begun.set()
            go.wait(20)
            claimed.append((tmp_path / "out" / LOCK).exists())
            return work(*args)

        def fails(self):
            begun.wait(20)
            threading.Timer(0.2, go.set).start()
            raise rk.RekernelError("no")

    with Slow(2) as pool, pytest.raises(rk.RekernelError, match=r"^no$"):
        rk.convert(source, tmp_path / "out", scale=2, executor=pool)
    assert claimed == [True]
    assert LOCK not in hidden(tmp_path / "out")


def test_a_second_run_of_a_task_waits_for_the_first():
    busy = [BusyError("busy"), BusyError("busy")]

    def write():
        if busy:
            raise busy.pop()
        return "written"

    assert when_free(write, pause=0) == "written"
    with pytest.raises(BusyError):
        when_free(lambda: (_ for _ in ()).throw(BusyError("busy")), patience=0, pause=0)


def test_what_is_no_executor_is_refused(source, tmp_path):
    with pytest.raises(rk.RekernelError, match="executor is an int, not an Executor; pass a ProcessPoolExecutor"):
        rk.convert(source, tmp_path / "out", scale=2, executor=4)
    assert not (tmp_path / "out").exists()


def test_a_source_that_changed_under_a_worker_is_noticed(source, tmp_path):
    folder = sharded(tmp_path / "source")

    class Touches(LosesTheSecondFile):
        def submit(self, work, *args, **kwargs):
            future: Future = Future()
            if work.__name__ == "write_file":
                os.utime(folder / "model-00002-of-00004.safetensors", ns=(1, 1))
            try:
                future.set_result(work(*args, **kwargs))
            except rk.RekernelError as error:
                future.set_exception(error)
            return future

    with pytest.raises(rk.RekernelError, match=r"model-00002-of-00004\.safetensors: the file changed"):
        rk.convert(folder, tmp_path / "out", scale=2, executor=Touches(ValueError()))
    assert not list((tmp_path / "out").glob("*.index.json"))


class Cancelled(Executor):
    """Cancels every task, as a user of a Dask client may."""

    def submit(self, work, *args, **kwargs):
        future: Future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_an_executor_that_was_shut_down_is_told_in_one_line(source, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        pass
    with pytest.raises(rk.RekernelError, match=r"model-00001.*: the executor was shut down before it took this file"):
        rk.convert(source, tmp_path / "out", scale=2, executor=pool)
    with pytest.raises(rk.RekernelError, match=r"model-0000.*: the task of this file was cancelled"):
        rk.convert(source, tmp_path / "out", scale=2, executor=Cancelled())
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_seen_here_is_told():
    """A worker on another machine may have a folder of the same name on a disk of its own."""
    assert refuse_unseen("a", lambda: 5, 5) is None
    late = iter([None, 0, 5])
    assert refuse_unseen("a", lambda: next(late), 5) is None
    with pytest.raises(rk.RekernelError, match=r"^a: a worker has written this file, but this process does not see"):
        refuse_unseen("a", lambda: None, 5, lag=0)
    with pytest.raises(rk.RekernelError, match=r"this process sees 4 bytes of 5"):
        refuse_unseen("a", lambda: 4, 5, lag=0)


def test_a_store_in_the_memory_of_another_process_is_told(source, processes):
    fs = pytest.importorskip("fsspec").filesystem("memory")
    with pytest.raises(rk.RekernelError, match=r"this process does not see the file; .*memory:// is in the memory of"):
        rk.convert(source, "memory://workers/out", scale=2, executor=processes)
    assert not fs.glob("/workers/out/*.index.json")


def test_a_worker_in_another_folder_writes_to_the_folder_of_this_process(source, expected, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "out").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(os.getcwd).result() == str(tmp_path / "there")
        monkeypatch.chdir(tmp_path / "here")
        rk.convert(source, "out", scale=2, executor=pool)
    assert contents(tmp_path / "here" / "out") == expected
    assert not contents(tmp_path / "there" / "out")
