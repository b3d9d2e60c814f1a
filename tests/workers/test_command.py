"""`rekernel convert` with --jobs, --part, --finish and --dask, as a shell runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rekernel as rk
from rekernel.checkpoint.atomic_file import PARTIAL

from .models import contents, sharded


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sharded(tmp_path_factory.mktemp("command") / "source")


@pytest.fixture(scope="module")
def expected(source):
    rk.convert(source, source.parent / "expected", scale=2)
    return contents(source.parent / "expected")


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "rekernel", "convert", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr
    return done


def test_jobs(source, expected, tmp_path):
    done = command(source, tmp_path / "out", "--scale", "2", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "Wrote" in done.stdout
    assert contents(tmp_path / "out") == expected


def test_parts_and_finish(source, expected, tmp_path):
    for number in (1, 2):
        done = command(source, tmp_path / "out", "--scale", "2", "--part", f"{number}/2")
        assert f"Part {number}/2" in done.stdout
        assert "--finish" in done.stdout
    done = command(source, tmp_path / "out", "--scale", "2", "--finish")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == expected


def test_a_part_that_lacks_is_named_with_the_option(source, tmp_path):
    done = command(source, tmp_path / "out", "--scale", "2", "--finish")
    assert done.returncode == 1
    assert "no part has hashed 4 files: model-00001-of-00004.safetensors" in done.stderr.replace("\n", " ")
    assert "--finish" in done.stderr
    assert "finish=True" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--jobs", "2", "--part", "1/2"], "--jobs and --part are two ways"),
        (["--part", "1/2", "--finish"], "--finish comes after the runs of all parts"),
        (["--part", "3/2"], "'3/2' is not a part; write 3/16"),
        (["--jobs", "0"], "0 is not in the range"),
        (["--guidance", "theta=1", "--jobs", "2"], "excludes"),
    ],
)
def test_wrong_options_end_with_usage(source, tmp_path, options, words):
    done = command(source, tmp_path / "out", "--scale", "2", *options)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_no_scheduler_is_one_line(source, tmp_path):
    pytest.importorskip("distributed")
    done = command(source, tmp_path / "out", "--scale", "2", "--dask", "tcp://127.0.0.1:9")
    assert done.returncode == 1
    assert "--dask tcp://127.0.0.1:9: no scheduler answers there" in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such scheduler file"),
        ("{}", "holds no address"),
        ("[", "not a JSON object"),
        ('{"address": 5}', "no address"),
    ],
)
def test_a_scheduler_file_that_nobody_wrote_is_one_line_and_no_wait(source, tmp_path, text, words):
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    if text is not None:
        file.write_text(text)
    done = command(source, tmp_path / "out", "--scale", "2", "--dask", file)
    assert done.returncode == 1
    assert words in " ".join(done.stderr.split())
    assert len(done.stderr.splitlines()) <= 4


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return sharded(tmp_path_factory.mktemp("signals") / "source", shards=16, channels=256)


def begun(source, target):
    """Start a conversion by two processes in a group of its own, as a shell does, and wait for its first file."""
    command = [sys.executable, "-m", "rekernel", "convert", str(source), str(target), "--scale", "2", "--jobs", "2"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(target.glob("*.safetensors")) and run.poll() is None:
        time.sleep(0.005)
    return run


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_without_a_traceback(larger, tmp_path):
    run = begun(larger, tmp_path / "out")
    os.killpg(run.pid, signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert said.strip() == "Stopped; finished files are kept: the same command with --resume continues from there."
    assert not list((tmp_path / "out").glob(f".*{PARTIAL}"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.slow
def test_processes_end_with_a_parent_that_is_killed(larger, tmp_path):
    """They would write into a folder that the next run believes to be its own."""
    run = begun(larger, tmp_path / "out")
    run.kill()
    run.communicate(timeout=60)
    until = time.monotonic() + 60
    while (left := group(run.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []
    done = command(larger, tmp_path / "out", "--scale", "2", "--jobs", "2", "--resume")
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "out").glob(".*"))


def group(number):
    """The processes of a group that run, by /proc/ID/stat: ID (name) state parent group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(own) == number and state != "Z":
            found.append(path.parent.name)
    return found
