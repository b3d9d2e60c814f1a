"""A file is synced while it is written, and a disk that fails then is not forgotten at the end."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from rekernel.checkpoint import early_sync
from rekernel.checkpoint.atomic_file import AtomicFile, copy_atomic
from rekernel.errors import CheckpointError

pytestmark = pytest.mark.skipif(not hasattr(os, "fdatasync"), reason="this system syncs with fsync alone")


@pytest.fixture
def every_kilobyte(monkeypatch):
    monkeypatch.setattr(early_sync, "_EVERY", 1024)


def write(path, pieces):
    with AtomicFile(path, force=False, inputs=[]) as file:
        for i in range(pieces):
            file.write_at(i * 600, memoryview(bytes([i]) * 600))


def test_a_failed_early_sync_fails_the_file_although_the_last_sync_succeeds(tmp_path, monkeypatch, every_kilobyte):
    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(CheckpointError, match=r"out\.bin: No space left on device; nothing was saved"):
        write(tmp_path / "out.bin", 4)
    assert not list(tmp_path.iterdir())


def test_every_share_is_synced_before_the_file_has_its_name(tmp_path, monkeypatch, every_kilobyte):
    real, seen = os.fdatasync, []

    def sync(fd):
        seen.append(threading.current_thread() is threading.main_thread())
        assert not (tmp_path / "out.bin").exists()
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    write(tmp_path / "out.bin", 40)
    assert seen
    assert not any(seen)  # the writer does not wait
    assert (tmp_path / "out.bin").read_bytes() == b"".join(bytes([i]) * 600 for i in range(40))


def test_no_thread_uses_the_descriptor_after_the_file_is_closed(tmp_path, monkeypatch, every_kilobyte):
    """The descriptor's number may be another file's by then."""
    real, ended = os.fdatasync, threading.Event()

    def slow(fd):
        ended.wait(0.2)
        os.fstat(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    write(tmp_path / "kept.bin", 4)
    with pytest.raises(ZeroDivisionError), AtomicFile(tmp_path / "left.bin", force=False, inputs=[]) as file:
        file.write_at(0, memoryview(bytes(5000)))
        raise ZeroDivisionError
    assert not [t for t in threading.enumerate() if t.name == "rekernel-early-sync"]
    copy_atomic(tmp_path / "kept.bin", tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == (tmp_path / "kept.bin").read_bytes()
