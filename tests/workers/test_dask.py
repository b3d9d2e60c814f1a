"""A real Dask cluster on this machine converts, loses workers in the middle of tasks, and leaves the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import rekernel as rk

from .models import contents, sharded

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve files of 9 MB, each of which takes a worker long enough to be killed in."""
    return sharded(tmp_path_factory.mktemp("dask") / "source", shards=12, channels=700)


@pytest.fixture(scope="module")
def expected(source):
    rk.convert(source, source.parent / "expected", scale=2)
    return contents(source.parent / "expected")


@pytest.fixture
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        yield cluster


def partial_files(folder: Path) -> list[Path]:
    return list(folder.glob(".*.rekernel-partial")) if folder.is_dir() else []


def kill_workers_in_tasks(client, folder: Path, killed: list[int], count: int) -> None:
    """Kill `count` workers, each while a file is being written, and wait for the nanny to begin another one."""
    while len(killed) < count:
        if partial_files(folder):
            pids = [pid for pid in client.run(os.getpid).values() if pid not in killed]
            holders = [pid for pid in pids if any(_holds(pid, path) for path in partial_files(folder))]
            if holders:
                os.kill(holders[0], signal.SIGKILL)
                killed.append(holders[0])
                time.sleep(0.5)
        time.sleep(0.001)


def _holds(pid: int, path: Path) -> bool:
    try:
        return any(link.samefile(path) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists())
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks /proc who writes a file")
def test_workers_killed_in_the_middle_of_tasks(source, expected, cluster, tmp_path):
    target, killed = tmp_path / "out", []
    with distributed.Client(cluster) as client:
        killer = threading.Thread(
            target=kill_workers_in_tasks, args=(client, target, killed, 2), daemon=True
        )  # fmt: skip
        killer.start()
        rk.convert(source, target, scale=2, executor=client.get_executor())
    assert killed, "no worker was caught in a task: the files are too small"
    assert contents(target) == expected


def test_a_second_conversion_is_not_taken_from_the_first(source, cluster, tmp_path):
    """Dask takes equal calls for one: a result that was deleted must be written again."""
    with distributed.Client(cluster) as client:
        executor = client.get_executor()
        rk.convert(source, tmp_path / "out", scale=2, executor=executor)
        first = contents(tmp_path / "out")
        rk.convert(source, tmp_path / "out", scale=2, executor=executor, force=True)
    assert contents(tmp_path / "out") == first


def test_the_command_line_uses_a_scheduler_and_tells_of_lost_tasks(source, expected, cluster, tmp_path):
    address = cluster.scheduler_address
    arguments = [sys.executable, "-m", "rekernel", "convert", str(source), str(tmp_path / "out"), "--scale", "2"]
    done = subprocess.run([*arguments, "--dask", address], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == expected


def test_a_task_that_kills_every_worker_is_named(source, cluster, tmp_path):
    """After its retries Dask gives a task up: one line says which file, and the rest can be resumed."""
    target = tmp_path / "out"
    with distributed.Client(cluster) as client:
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
        killed: list[int] = []
        killer = threading.Thread(target=kill_workers_in_tasks, args=(client, target, killed, 1), daemon=True)
        killer.start()
        with pytest.raises(rk.RekernelError, match=r"model-000\d\d-of-00012.safetensors: the worker .* lost"):
            rk.convert(source, target, scale=2, executor=client.get_executor())
        killer.join(20)
    report = rk.convert(source, target, scale=2, resume=True)
    assert report.target == target
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()
