"""Two runs into one target: one of them writes, the other is refused and says who writes; no mixture, nothing left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import rekernel as rk
from rekernel.checkpoint.locked_file import LOCK, claimed
from rekernel.errors import CheckpointError, RekernelError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    """A folder with one file of weights and a configuration, which converts to a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    weights = {f"blocks.{i}.conv.weight": rng.normal(size=(8, 8, 3, 3)).astype(np.float32) for i in range(6)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def convert(source, target, scale, **options):
    return rk.convert(source, target, scale=scale, mode="supersample", **options)


def during(call):
    """A progress callback that makes `call` once, while the conversion holds its target; and the errors it raised."""
    errors = []

    def progress(done, total):
        if not errors:
            errors.append(None)
            try:
                call()
            except RekernelError as error:
                errors[0] = error

    return progress, errors


@pytest.mark.parametrize("options", [{"force": True}, {"resume": True}, {}], ids=str)
@pytest.mark.parametrize("kind", ["folder", "shards", "file"])
def test_a_second_run_is_refused_while_the_first_writes(kind, options, source, tmp_path):
    target = tmp_path / ("out.safetensors" if kind == "file" else "out")
    start = source / "model.safetensors" if kind == "file" else source
    more = {"max_shard_size": 4000} if kind == "shards" else {}
    progress, errors = during(lambda: convert(start, target, 3, **more, **options))
    convert(start, target, 2, progress=progress, force=True, **more)
    assert f"another run (process {os.getpid()} on " in str(errors[0])
    assert str(errors[0]).isprintable()
    alone = tmp_path / "alone" / target.name
    alone.parent.mkdir()
    convert(start, alone, 2, **more)
    expected = files(alone) if alone.is_dir() else alone.read_bytes()
    assert (files(target) if target.is_dir() else target.read_bytes()) == expected
    assert not list(tmp_path.rglob("*rekernel*")), "nothing is left behind"


def test_other_files_of_one_folder_are_written_at_once(source, tmp_path):
    start = source / "model.safetensors"
    progress, errors = during(lambda: convert(start, tmp_path / "three.safetensors", 3))
    convert(start, tmp_path / "two.safetensors", 2, progress=progress)
    assert errors == [None]
    assert {p.name for p in tmp_path.iterdir()} == {"in", "two.safetensors", "three.safetensors"}


def test_another_process_is_named_and_its_lock_ends_with_it(source, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    code = (
        "import sys, pathlib; from rekernel.checkpoint.locked_file import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), folder=True): print(flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert other.stdin and other.stdout
    other.stdout.readline()
    with pytest.raises(CheckpointError, match=rf"another run \(process {other.pid} on .* since 20.*\) writes"):
        convert(source, target, 2, force=True)
    assert list(files(target)) == [LOCK]
    other.kill()
    other.wait()
    assert list(files(target)) == [LOCK], "a killed run leaves its lock file"
    convert(source, target, 2)
    assert set(files(target)) == {"config.json", "model.safetensors"}


def test_a_lock_file_of_a_stranger_shows_no_control_characters(source, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    with claimed(target, folder=True):
        (target / LOCK).write_bytes("\x1b[2J\u202e\n\xff".encode() + b"\xff" + b"x" * 5000)
        with pytest.raises(CheckpointError) as caught:
            convert(source, target, 2)
    assert str(caught.value).isprintable() and r"\x1b[2J\u202e\n" in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(target))


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_stands_in_the_place_of_the_lock_is_neither_followed_nor_removed(kind, source, tmp_path):
    target, victim = tmp_path / "out", tmp_path / "victim"
    target.mkdir()
    victim.write_bytes(b"precious")
    {"link": lambda: (target / LOCK).symlink_to(victim), "folder": (target / LOCK).mkdir}[kind]()
    with pytest.raises(CheckpointError, match="is in the way"):
        convert(source, target, 2)
    assert victim.read_bytes() == b"precious"
    assert [p.name for p in target.iterdir()] == [LOCK]


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that has no locks, as some network file systems."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(fd, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_without_locks_the_file_alone_is_the_lock(kind, source, tmp_path, no_locks):
    target = tmp_path / ("out.safetensors" if kind == "file" else "out")
    start = source / "model.safetensors" if kind == "file" else source
    progress, errors = during(lambda: convert(start, target, 3, force=True))
    convert(start, target, 2, progress=progress)
    assert "this file system has no locks that tell" in str(errors[0])
    assert f"process {os.getpid()}" in str(errors[0])
    convert(start, target, 2, force=True)
    assert not list(tmp_path.rglob("*rekernel*"))


def test_without_locks_the_message_names_the_file_that_a_killed_run_left(source, tmp_path, no_locks):
    target = tmp_path / "out"
    target.mkdir()
    (target / LOCK).write_text("process 1 on elsewhere since yesterday")
    with pytest.raises(CheckpointError, match=r"process 1 on elsewhere.* If that run has ended, remove") as caught:
        convert(source, target, 2)
    assert str(target / LOCK) in str(caught.value)
    (target / LOCK).unlink()
    convert(source, target, 2)


def test_saving_a_model_and_converting_a_graph_respect_the_claim(tmp_path):
    onnx = pytest.importorskip("onnx")
    torch = pytest.importorskip("torch")
    import rekernel.torch as rkt

    model = rkt.rescale(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, stride=2, padding=1)), 2, torch.zeros(1, 1, 8, 8))
    weight = onnx.numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])], "g",
        [value("x", 1, [1, 1, 8, 8])], [value("y", 1, [1, 2, 4, 4])], [weight],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(proto, tmp_path / "in.onnx")
    calls = {
        "out.safetensors": lambda path: rkt.save(model, path, force=True),
        "out.onnx": lambda path: rk.convert(tmp_path / "in.onnx", path, scale=2, force=True),
    }
    for name, call in calls.items():
        with claimed(tmp_path / name, folder=False), pytest.raises(CheckpointError, match="another run"):
            call(tmp_path / name)
        call(tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {"in.onnx", *calls}


@pytest.mark.slow
def test_processes_that_start_together_never_leave_a_mixture(source, tmp_path):
    whole = {}
    for scale in (2, 3):
        convert(source, tmp_path / f"alone-{scale}", scale)
        whole[scale] = files(tmp_path / f"alone-{scale}")
    code = (
        "import sys, rekernel as rk; sys.stdin.readline()\n"
        "rk.convert(sys.argv[1], sys.argv[2], scale=int(sys.argv[3]), mode='supersample', force=True)"
    )
    target = tmp_path / "out"
    for _ in range(10):
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(source), str(target), str(scale)], stdin=subprocess.PIPE,
                stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, text=True,
            )
            for scale in (2, 3, 2)
        ]  # fmt: skip
        for run in runs:
            assert run.stdin
            run.stdin.write("\n")
            run.stdin.flush()
        errors = [run.communicate()[1] for run in runs]
        assert any(run.returncode == 0 for run in runs), errors
        assert all(run.returncode == 0 or "another run" in error for run, error in zip(runs, errors, strict=True)), (
            errors
        )
        assert files(target) in whole.values()
