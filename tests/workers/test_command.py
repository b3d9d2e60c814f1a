"""`rekernel convert` with --jobs, --part, --finish and --dask, as a shell runs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rekernel as rk

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
    assert "no part has hashed 1 file: model-00001-of-00004.safetensors" in done.stderr.replace("\n", " ")
    assert "--finish" in done.stderr
    assert "finish=True" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--jobs", "2", "--part", "1/2"], "--jobs and --part are two ways"),
        (["--part", "1/2", "--finish"], "--part and --finish are two ways"),
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
