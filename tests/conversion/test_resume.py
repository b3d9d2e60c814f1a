"""Signals that end a run, and what `--resume` takes over from one: files that are what was written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rekernel import convert
from rekernel.conversion.journal import Journal

from .test_faults import INDEX, command, environment, files, interrupted, run, sharded


@pytest.fixture
def source(tmp_path):
    return sharded(tmp_path / "in")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_cleans_up_and_says_how_to_continue(number, tmp_path):
    source, target = sharded(tmp_path / "in", count=24, channels=160), tmp_path / "out"
    process = subprocess.Popen(  # of low priority: the signal is to come before the last file
        command("convert", source, target, "--scale", 2), env=environment(), stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.nice(19),
    )  # fmt: skip
    while not list(target.glob("*.safetensors")):  # it has finished a file and writes the next one
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    assert "Stopped; finished files are kept: the same command with --resume" in said, (said, sorted(files(target)))
    left = {name for name in files(target) if Path(name).name.startswith(".")}
    assert left == {".rekernel-journal.json"}
    assert INDEX not in files(target)
    result = run("convert", source, target, "--scale", 2, "--resume")
    assert result.returncode == 0 and "taken over" in result.stdout
    assert not {name for name in files(target) if name.startswith(".")}


def test_an_interrupt_just_after_a_file_has_appeared_keeps_the_file(tmp_path):
    journal, path, other = Journal(tmp_path), tmp_path / "model.safetensors", tmp_path / "next.safetensors"
    with pytest.raises(KeyboardInterrupt), journal.kept():
        for expected in (path, other):
            journal.expect(expected)
        path.write_bytes(b"weights")
        raise KeyboardInterrupt
    assert [*Journal(tmp_path).read()] == ["model.safetensors"]


def test_a_signal_that_is_ignored_stays_ignored(source, tmp_path):
    process = subprocess.Popen(
        command("convert", source, tmp_path / "out", "--scale", 2, "--quiet"), env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    while not list((tmp_path / "out").glob("*.safetensors")):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_finished_file_that_was_changed_is_written_again(kind, source, tmp_path):
    """Also where its size, its header and the time of its last change are the same."""
    convert(source, tmp_path / "whole", scale=2)
    if kind == "folder":
        interrupted(source, tmp_path / "out")
        path, arguments = tmp_path / "out" / "model-00002-of-00006.safetensors", (source, tmp_path / "out")
    else:
        path = tmp_path / "out.safetensors"
        arguments = (source / "model-00002-of-00006.safetensors", path)
        convert(*arguments, scale=2)
    expected, status = path.read_bytes(), path.stat()
    path.write_bytes(expected[:-1] + bytes([expected[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    convert(*arguments, scale=2, resume=True)
    assert path.read_bytes() == expected


def test_a_folder_that_was_moved_resumes(source, tmp_path):
    """Digests do not depend on the times of files, which other programs do not keep."""
    interrupted(source, tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "moved", copy_function=shutil.copyfile)
    assert convert(source, tmp_path / "moved", scale=2, resume=True).resumed == 4
    convert(source, tmp_path / "whole", scale=2)
    assert files(tmp_path / "moved") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    "journal", [b"", b"[]", b"{", b"\xff", b'{"model-00001-of-00006.safetensors": [1]}', b'{"x": [1, 2]}', b'{"x": {}}']
)
def test_a_journal_that_cannot_be_read_counts_as_empty(journal, source, tmp_path):
    interrupted(source, tmp_path / "out")
    (tmp_path / "out" / ".rekernel-journal.json").write_bytes(journal)
    assert convert(source, tmp_path / "out", scale=2, resume=True).resumed == 0
    convert(source, tmp_path / "whole", scale=2)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
