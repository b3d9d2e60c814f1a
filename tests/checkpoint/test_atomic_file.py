"""Files appear whole or not at all: full disks, other file systems, copies."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rekernel.checkpoint.atomic_file import AtomicFile, copy_atomic, write_atomic
from rekernel.checkpoint.writer import StreamingWriter
from rekernel.errors import CheckpointError

from .test_writer import left


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no right to mount a small tmpfs here: {error}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(small_disk):
    (small_disk / "x").write_bytes(b"old")
    with (
        pytest.raises(CheckpointError, match="No space left on device; nothing was saved") as caught,
        StreamingWriter(small_disk / "x", [("t", "U8", (600_000,))], None, force=True) as writer,
    ):
        (small_disk / "another's").write_bytes(bytes(700_000))  # after the check: space is never ours to keep
        writer.write("t", np.ones(600_000, np.uint8))
    assert str(caught.value).isprintable()
    assert left(small_disk) == ["another's", "x"]
    assert (small_disk / "x").read_bytes() == b"old"


def test_a_full_disk_is_noticed_by_the_small_files_too(small_disk, tmp_path):
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_atomic(small_disk / "x", b"1" * 2_000_000)
    (tmp_path / "big").write_bytes(b"1" * 2_000_000)
    with pytest.raises(CheckpointError, match=r"2\.0 MB needed, 1\.0 MB free"):
        copy_atomic(tmp_path / "big", small_disk / "x")
    assert left(small_disk) == []


@contextlib.contextmanager
def file_size_limit(nbytes):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("act", ["stream", "write", "copy"])
def test_a_file_too_large_for_its_file_system_is_one_line(act, tmp_path):
    """The same path as for a full disk, where nothing may be mounted: the system refuses the write."""
    (tmp_path / "big").write_bytes(b"1" * 200_000)
    with pytest.raises(CheckpointError, match="File too large; nothing was saved"), file_size_limit(100_000):
        if act == "write":
            write_atomic(tmp_path / "x", b"1" * 200_000)
        elif act == "copy":
            copy_atomic(tmp_path / "big", tmp_path / "x")
        else:
            with StreamingWriter(tmp_path / "x", [("t", "U8", (200_000,))], None) as writer:
                writer.write("t", bytes(200_000))
    assert left(tmp_path) == ["big"]


@pytest.mark.parametrize("nbytes", [0, 1, 3_000_001])
def test_a_copy_is_equal(nbytes, tmp_path):
    data = random.Random(0).randbytes(nbytes)
    (tmp_path / "source").write_bytes(data)
    copy_atomic(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o644, 0o755, 0o666])
def test_a_copy_has_the_permissions_that_cp_gives(mode, tmp_path):
    (tmp_path / "source").write_bytes(b"x")
    (tmp_path / "source").chmod(mode)
    copy_atomic(tmp_path / "source", tmp_path / "copy")
    subprocess.run(["cp", tmp_path / "source", tmp_path / "by-cp"], check=True)
    assert permissions(tmp_path / "copy") == permissions(tmp_path / "by-cp") == mode & ~current_umask()


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o666, 0o777])
def test_a_replaced_file_keeps_its_permissions(mode, tmp_path):
    for name in ("source", "copy"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "copy").chmod(mode)
    copy_atomic(tmp_path / "source", tmp_path / "copy", force=True)
    assert (tmp_path / "copy").read_bytes() == b"source"
    assert permissions(tmp_path / "copy") == mode


def test_a_partial_file_can_be_opened_by_the_next_run_and_by_nobody_who_may_not_read_the_result(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x").chmod(0o440)
    with AtomicFile(tmp_path / "x", force=True, inputs=()) as file:
        assert permissions(file.partial) == 0o640 & ~current_umask() | 0o600
    assert permissions(tmp_path / "x") == 0o440


def test_bits_that_let_a_program_run_as_its_owner_are_not_carried_over(tmp_path):
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "copy").write_bytes(b"old")
    (tmp_path / "copy").chmod(0o4755)
    copy_atomic(tmp_path / "source", tmp_path / "copy", force=True)
    assert permissions(tmp_path / "copy") == 0o755


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files")
def test_no_file_stays_open(tmp_path):
    before = [*Path("/proc/self/fd").iterdir()]
    for number in range(3):
        write_atomic(tmp_path / f"x{number}", b"1")
        copy_atomic(tmp_path / f"x{number}", tmp_path / f"y{number}")
        with pytest.raises(ZeroDivisionError), AtomicFile(tmp_path / "z", force=False, inputs=()):
            raise ZeroDivisionError
    assert len([*Path("/proc/self/fd").iterdir()]) == len(before)


def test_after_its_block_a_file_takes_no_more_bytes(tmp_path):
    """A number of a closed file may be that of another one by now, or that of the terminal."""
    with pytest.raises(ZeroDivisionError), AtomicFile(tmp_path / "x", force=False, inputs=()) as failed:
        raise ZeroDivisionError
    with AtomicFile(tmp_path / "x", force=False, inputs=()) as written:
        written.write_at(0, memoryview(b"1"))
    for file in (failed, written, AtomicFile(tmp_path / "y", force=False, inputs=())):
        with pytest.raises(CheckpointError, match="not open for writing"):
            file.write_at(0, memoryview(b"2"))


def test_a_file_system_that_cannot_sync_a_folder_still_takes_files(tmp_path, monkeypatch):
    sync = os.fsync

    def of_files(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(22, "Invalid argument")
        sync(fd)

    monkeypatch.setattr(os, "fsync", of_files)
    write_atomic(tmp_path / "x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1" and left(tmp_path) == ["x"]


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def current_umask():
    os.umask(umask := os.umask(0))
    return umask


def test_a_copy_of_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("gone", "No such file"), ("pipe", "not a regular file"), (".", "not a regular file")):
        with pytest.raises(CheckpointError, match=words):
            copy_atomic(tmp_path / name, tmp_path / "x")
    assert left(tmp_path) == ["pipe"]


def test_a_copy_from_another_file_system_is_equal(small_disk, tmp_path):
    (small_disk / "source").write_bytes(b"12345" * 1000)
    copy_atomic(small_disk / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"12345" * 1000
