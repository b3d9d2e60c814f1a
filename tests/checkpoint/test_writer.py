"""Whole or not at all: the streaming writer, the small files, and what happens when something goes wrong."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import safetensors.numpy

from rekernel.checkpoint.atomic_file import check_free_space, copy_atomic, write_atomic
from rekernel.checkpoint.shard import shard_of_file
from rekernel.checkpoint.writer import StreamingWriter
from rekernel.errors import CheckpointError

ARRAYS = {
    "b": np.arange(5, dtype=np.uint8),
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 3), np.float16),
    "scalar": np.array(7, np.int64),
    "flag": np.array([True, False]),
}
NAMES = {"uint8": "U8", "float32": "F32", "float16": "F16", "int64": "I64", "bool": "BOOL"}
PLAN = [(name, NAMES[str(array.dtype)], array.shape) for name, array in ARRAYS.items()]
METADATA = {"format": "np"}


def fill(writer):
    for name, array in ARRAYS.items():
        writer.write(name, array)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("order", range(4))
def test_any_order_gives_the_bytes_of_the_reference(order, tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "reference", METADATA)
    names = list(ARRAYS)
    random.Random(order).shuffle(names)
    with StreamingWriter(tmp_path / "ours", PLAN, METADATA) as writer:
        for name in names:
            writer.write(name, ARRAYS[name])
        assert not (tmp_path / "ours").exists()
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "reference").read_bytes()
    assert left(tmp_path) == ["ours", "reference"]
    assert writer.nbytes == (tmp_path / "ours").stat().st_size


@pytest.mark.parametrize("seed", range(5))
def test_pieces_in_any_order_cover_a_tensor(seed, tmp_path):
    rng = random.Random(seed)
    data = rng.randbytes(1000)
    cuts = sorted({0, 1000, *rng.sample(range(1, 1000), 40)})
    pieces = list(pairwise(cuts))
    rng.shuffle(pieces)
    with StreamingWriter(tmp_path / "x", [("t", "U8", (1000,))], None) as writer:
        for start, end in pieces:
            writer.write_at("t", start, data[start:end])
            with pytest.raises(CheckpointError, match="were written already"):
                writer.write_at("t", rng.randrange(start, end), data[start : start + 1])
    assert (tmp_path / "x").read_bytes().endswith(data)


@pytest.mark.parametrize(
    "buffer",
    [b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), np.frombuffer(b"abcd", np.int16), np.frombuffer(b"abcd", "<f4")],
)
def test_any_contiguous_buffer_is_taken(buffer, tmp_path):
    with StreamingWriter(tmp_path / "x", [("t", "U8", (4,))], None) as writer:
        writer.write("t", buffer)
    assert (tmp_path / "x").read_bytes().endswith(b"abcd")


def test_complex_numbers_are_taken(tmp_path):
    value = np.array([1 + 2j, 3 - 4j], np.complex64)
    with StreamingWriter(tmp_path / "x", [("t", "C64", (2,))], None) as writer:
        writer.write("t", value)
    assert (tmp_path / "x").read_bytes().endswith(value.tobytes())


WRONG = {
    "too short": (
        lambda w: w.write("a", bytes(23)),
        r"tensor a: 23 bytes were given, but F32 of shape \(2, 3\) takes 24",
    ),
    "too long": (lambda w: w.write("a", bytes(25)), "25 bytes were given"),
    "twice": (lambda w: (w.write("a", bytes(24)), w.write("a", bytes(24))), "written already"),
    "overlapping pieces": (lambda w: (w.write_at("a", 0, bytes(9)), w.write_at("a", 8, bytes(9))), "written already"),
    "a piece beyond the end": (lambda w: w.write_at("a", 20, bytes(5)), "bytes 20 to 25 lie outside its 24"),
    "a piece before the beginning": (lambda w: w.write_at("a", -1, bytes(5)), "lie outside"),
    "unknown tensor": (lambda w: w.write("z", b""), "tensor z: is not among the 5 tensors"),
    "not contiguous": (lambda w: w.write("a", np.zeros((3, 2), np.float32).T), "not C-contiguous"),
    "big-endian": (lambda w: w.write("a", np.zeros((2, 3), ">f4")), "big-endian"),
    "a tensor missing": (lambda w: None, "tensor scalar: 0 of 8 bytes written; nothing was saved"),
    "a gap": (lambda w: (w.write("scalar", bytes(8)), w.write_at("a", 8, bytes(16))), "tensor a: 16 of 24 bytes"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_mistake_leaves_nothing_behind(fault, tmp_path):
    act, words = WRONG[fault]
    (tmp_path / "x").write_bytes(b"old")
    with (
        pytest.raises(CheckpointError, match=words) as caught,
        StreamingWriter(tmp_path / "x", PLAN, METADATA, force=True) as writer,
    ):
        act(writer)
    assert str(caught.value).isprintable()
    assert left(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_exception_leaves_nothing_behind(error, tmp_path):
    with pytest.raises(error), StreamingWriter(tmp_path / "x", PLAN, METADATA) as writer:
        fill(writer)
        assert left(tmp_path) == [".x.rekernel-partial"]
        raise error
    assert left(tmp_path) == []


def test_writing_outside_the_block_is_refused(tmp_path):
    writer = StreamingWriter(tmp_path / "x", PLAN, METADATA)
    with pytest.raises(CheckpointError, match="not open for writing"):
        writer.write("b", ARRAYS["b"])


def test_no_tensors_make_a_file_of_a_header(tmp_path):
    with StreamingWriter(tmp_path / "x", [], {}):
        pass
    assert shard_of_file(tmp_path / "x").header.tensors == {}


def test_the_mode_follows_the_umask_even_over_a_stale_partial_file(tmp_path):
    for umask in (0o022, 0o077, 0o002):
        (tmp_path / ".x.rekernel-partial").write_bytes(b"of a killed run" * 100)
        (tmp_path / ".x.rekernel-partial").chmod(0o777)
        before = os.umask(umask)
        try:
            with StreamingWriter(tmp_path / "x", PLAN, METADATA, force=True) as writer:
                fill(writer)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask
        assert left(tmp_path) == ["x"]
        (tmp_path / "x").unlink()


def test_an_existing_file_needs_force(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with (
        pytest.raises(CheckpointError, match="exists already; pass force=True"),
        StreamingWriter(tmp_path / "x", [], None),
    ):
        pass
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(CheckpointError, match="exists already"):
        write_atomic(tmp_path / "link", b"new")
    write_atomic(tmp_path / "x", b"new", force=True)
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    with pytest.raises(CheckpointError, match="force=True"), StreamingWriter(tmp_path / "x", PLAN, METADATA) as writer:
        fill(writer)
        (tmp_path / "x").write_bytes(b"another's")
    assert (tmp_path / "x").read_bytes() == b"another's"
    assert left(tmp_path) == ["x"]


@pytest.mark.parametrize("name", ["same", "hard", "soft", "sub/../same", "chain"])
def test_the_source_is_never_the_destination(name, tmp_path):
    source = tmp_path / "same"
    source.write_bytes(b"source")
    (tmp_path / "sub").mkdir()
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "soft").symlink_to("same")
    (tmp_path / "chain").symlink_to("soft")
    for inputs in ([source], [tmp_path / "soft"], [tmp_path / "other", tmp_path / "hard"]):
        with (
            pytest.raises(CheckpointError, match="is also an input file"),
            StreamingWriter(tmp_path / name, [], None, force=True, inputs=inputs),
        ):
            pass
    with pytest.raises(CheckpointError, match="is also an input file"):
        copy_atomic(source, tmp_path / name, force=True)
    assert source.read_bytes() == b"source"
    assert left(tmp_path) == ["chain", "hard", "same", "soft", "sub"]


def test_a_source_named_like_the_partial_file_survives(tmp_path):
    source = tmp_path / ".x.rekernel-partial"
    source.write_bytes(b"source")
    with pytest.raises(CheckpointError, match="is also an input file; rename it"):
        write_atomic(tmp_path / "x", b"new", inputs=[source])
    assert source.read_bytes() == b"source"


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("", "is a folder; name a file"),
        ("folder", "is a folder; name a file"),
        ("link", "is a folder; name a file"),
        ("none/x", "its folder .*none does not exist; create it"),
        ("file/x", "its folder .*file does not exist"),
        ("pipe", "name a regular file"),
        ("n" * 300, "File name too long"),
    ],
)
def test_destinations_that_are_no_files(destination, words, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    before = left(tmp_path)
    with pytest.raises(CheckpointError, match=words) as caught:
        write_atomic(tmp_path / destination, b"new", force=True)
    assert str(caught.value).isprintable()
    assert left(tmp_path) == before


def test_a_long_name_still_has_a_partial_file(tmp_path):
    write_atomic(tmp_path / ("n" * 255), b"new")
    assert left(tmp_path) == ["n" * 255]


def test_whoever_holds_a_stale_partial_file_open_does_not_hold_the_result(tmp_path):
    with (tmp_path / ".x.rekernel-partial").open("w+b") as planted:
        write_atomic(tmp_path / "x", b"new")
        planted.write(b"changed")
        planted.flush()
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_stands_in_the_partial_files_place_is_neither_followed_nor_removed(kind, tmp_path):
    partial, victim = tmp_path / ".x.rekernel-partial", tmp_path / "victim"
    victim.write_bytes(b"precious")
    {"link": lambda: partial.symlink_to("victim"), "folder": partial.mkdir, "pipe": lambda: os.mkfifo(partial)}[kind]()
    with pytest.raises(CheckpointError, match="is in the way: its name is that of a file of rekernel; remove it"):
        write_atomic(tmp_path / "x", b"new")
    assert victim.read_bytes() == b"precious"
    assert left(tmp_path) == [".x.rekernel-partial", "victim"]


def test_two_runs_of_one_destination_do_not_collide(tmp_path):
    code = (
        "import sys; from rekernel.checkpoint.writer import StreamingWriter\n"
        "with StreamingWriter(sys.argv[1], [('t', 'U8', (1,))], None) as writer:\n"
        "    print('open', flush=True); sys.stdin.readline(); writer.write('t', b'x')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(CheckpointError, match="another run is writing this file now"):
            write_atomic(tmp_path / "x", b"ours")
        other.communicate("go\n")
    assert sum(info.nbytes for info in shard_of_file(tmp_path / "x").header.tensors.values()) == 1
    with subprocess.Popen([*command[:-1], str(tmp_path / "y")], **pipes) as killed:
        assert killed.stdout.readline() == "open\n"
        killed.send_signal(signal.SIGKILL)
    assert left(tmp_path) == [".y.rekernel-partial", "x"]
    write_atomic(tmp_path / "y", b"ours")  # a killed run's lock dies with it
    assert left(tmp_path) == ["x", "y"]


def test_a_placeholder_is_replaced_once_the_value_is_known(tmp_path):
    placeholder = "0" * 60 + "sha!"
    digest = hashlib.sha256(b"source").hexdigest()
    with StreamingWriter(tmp_path / "x", PLAN, {"source": placeholder}) as writer:
        fill(writer)
        for old, new, words in [
            (placeholder.encode(), b"short", "64 bytes cannot hold 5 bytes"),
            (b"absent", b"tnesba", "occurs 0 times in the header"),
            (b"dtype", b"dtypo", "occurs 5 times in the header"),
            (b"", b"", "occurs 0 times"),
            (b"U8", b"I8", "part of a tensor's entry"),
            (placeholder.encode(), b'"' * 64, "not JSON"),
        ]:
            with pytest.raises(CheckpointError, match=words):
                writer.replace_placeholder(old, new)
        writer.replace_placeholder(placeholder.encode(), digest.encode())
    assert shard_of_file(tmp_path / "x").header.metadata == {"source": digest}


def test_free_space_is_checked_before_anything_is_written(tmp_path):
    with (
        pytest.raises(CheckpointError, match=r"4\.0 PB needed, .* free: make room") as caught,
        StreamingWriter(tmp_path / "x", [("t", "F32", (10**15,))], None),
    ):
        pass
    assert str(caught.value).isprintable()
    assert left(tmp_path) == []
    check_free_space(tmp_path, 0)


def test_open_readers_keep_the_old_file(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    with (tmp_path / "x").open("rb") as reader:
        write_atomic(tmp_path / "x", b"new", force=True)
        assert reader.read() == b"old"
    assert (tmp_path / "x").read_bytes() == b"new"
