"""What a conversion into or from a store leaves when something goes wrong, and what `resume` takes over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rekernel as rk
from rekernel.conversion.journal import NAME

from .conftest import Fault, Store
from .models import contents, converted, file, pipeline, sharded

ROOT = Path(__file__).parents[2]


class StopError(Exception):
    pass


def stopping(after: int):
    """A progress function that fails as soon as so many bytes are done."""

    def progress(done: int, total: int) -> None:
        if done > after:
            raise StopError

    return progress


def environment(store: Store) -> dict[str, str]:
    return {**os.environ, **store.environment, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'cli'}", "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rekernel", *map(str, arguments)]


def run(store: Store, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(store), capture_output=True, text=True, check=False)


def test_a_failure_in_the_middle_leaves_nothing_of_a_file(store: Store, tmp_path):
    source = file(tmp_path / "in.safetensors")
    with pytest.raises(StopError):
        rk.convert(source, store.url("out.safetensors"), scale=2, progress=stopping(10_000))
    assert (store.names(), store.uploads()) == ([], [])


def test_an_object_that_is_replaced_stays_whole_until_the_new_one_is(store: Store, tmp_path):
    source = file(tmp_path / "in.safetensors")
    store.put("out.safetensors", b"before")
    with pytest.raises(rk.RekernelError, match=r"out\.safetensors: exists already; pass force=True"):
        rk.convert(source, store.url("out.safetensors"), scale=2)
    with pytest.raises(StopError):
        rk.convert(source, store.url("out.safetensors"), scale=2, force=True, progress=stopping(10_000))
    assert (store.contents(), store.uploads()) == ({"out.safetensors": b"before"}, [])
    rk.convert(source, store.url("out.safetensors"), scale=2, force=True)
    assert store.get("out.safetensors") == converted(source, tmp_path / "out.safetensors").read_bytes()


def test_a_run_that_failed_is_resumed(store: Store, tmp_path):
    source = sharded(tmp_path / "in", count=4)
    expected = contents(converted(source, tmp_path / "out"))
    total = sum(map(len, expected.values()))
    with pytest.raises(StopError):
        rk.convert(source, store.url("out"), scale=2, progress=stopping(total // 2))
    names = set(store.names("out"))
    assert NAME in names and "model.safetensors.index.json" not in names
    finished = {name for name in names if name.endswith(".safetensors")}
    assert len(finished) in (1, 2)
    with pytest.raises(rk.RekernelError, match="resume=True to resume"):
        rk.convert(source, store.url("out"), scale=2)
    before = {name: store.version(f"out/{name}") for name in finished}
    time.sleep(1 if store.protocol == "s3" else 0)  # the resolution of S3's times
    report = rk.convert(source, store.url("out"), scale=2, resume=True)
    assert report.resumed == len(finished)
    assert store.contents("out") == expected
    assert {name: store.version(f"out/{name}") for name in finished} == before


@pytest.mark.parametrize("what", ["the source", "an object", "the options", "the list"])
def test_what_changed_meanwhile_is_not_taken_over(store: Store, tmp_path, what):
    source = sharded(tmp_path / "in", count=3)
    with pytest.raises(StopError):
        rk.convert(source, store.url("out"), scale=2, progress=stopping(1_400_000))
    finished = sorted(name for name in store.names("out") if name.endswith(".safetensors"))
    assert finished
    options: dict[str, object] = {"scale": 2}
    if what == "the source":
        path = source / finished[0]
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif what == "an object":
        data = bytearray(store.get(f"out/{finished[0]}"))
        data[-1] ^= 1
        store.put(f"out/{finished[0]}", bytes(data))
    elif what == "the options":
        options["method"] = "linear"
    else:
        store.put(f"out/{NAME}", b'{"model-00001-of-00003.safetensors": [1, "x", 3], "y": [[]')
    expected = contents(converted(source, tmp_path / "out", **options))
    report = rk.convert(source, store.url("out"), resume=True, **options)
    assert store.contents("out") == expected
    assert report.resumed == (len(finished) - 1 if what == "an object" else 0)  # each recipe lists all source files


def test_a_large_file_that_is_copied_is_taken_over(store: Store, tmp_path):
    """It is not sent again: the weights that stay are the most of a pipeline."""
    folder = pipeline(tmp_path / "in")
    (folder / "tokenizer" / "large.bin").write_bytes(os.urandom(17 << 20))
    expected = contents(converted(folder, tmp_path / "out"))
    sizes = sum(map(len, expected.values()))
    with pytest.raises(StopError):
        rk.convert(folder, store.url("out"), scale=2, progress=stopping(sizes - 1_000_000))
    before = store.version("out/tokenizer/large.bin")
    rk.convert(folder, store.url("out"), scale=2, resume=True)
    assert store.version("out/tokenizer/large.bin") == before
    assert store.contents("out") == expected


@pytest.mark.parametrize("target", ["disk", "store"])
@pytest.mark.parametrize("how", ["other bytes", "shorter", "removed", "the copied file"])
def test_an_object_that_changes_during_the_run_is_noticed(store: Store, tmp_path, target, how):
    folder = pipeline(tmp_path / "in")
    store.upload(folder, "in")
    name = "in/unet/diffusion_pytorch_model.safetensors"
    other = bytearray(store.get(name))
    other[-1] ^= 1
    changed: list[int] = []

    def progress(done: int, total: int) -> None:
        if changed:
            return
        changed.append(done)
        if how == "removed":
            store.fs.rm_file(store.path(name))
        else:
            store.put(name, bytes(other) if how == "other bytes" else b"short")

    if how == "the copied file":
        sent = []

        def progress(done: int, total: int) -> None:
            sent.append(done)
            if len(sent) == 3:
                store.put("in/text_encoder/model.safetensors", b"short")

    to = tmp_path / "out" if target == "disk" else store.url("out")
    with pytest.raises(rk.RekernelError) as caught:
        rk.convert(store.url("in"), to, scale=2, progress=progress)
    assert "model.safetensors: the object " in str(caught.value)
    assert "while it was read" in str(caught.value)
    assert store.url("in/") in str(caught.value)
    there = contents(tmp_path / "out") if (tmp_path / "out").exists() else store.contents("out")
    assert "model_index.json" not in there
    assert "text_encoder/model.safetensors" not in there
    assert store.uploads() == []


def test_a_configuration_that_is_not_there_and_an_empty_folder(store: Store, tmp_path):
    source = file(tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text("{}")
    expected = contents(converted(tmp_path / "in", tmp_path / "out"))
    store.put("in/model.safetensors", source.read_bytes())
    store.put("in/config.json", b"{}")
    if store.protocol == "s3":  # the console of S3 makes these for folders
        for name in ("in/", "in/marker/"):
            store.fs.call_s3("put_object", Bucket="bucket", Key=name, Body=b"")
    rk.convert(store.url("in"), tmp_path / "here", scale=2)
    assert contents(tmp_path / "here") == expected
    with pytest.raises(rk.RekernelError, match=r"nothing: no such object, and no folder of this name"):
        rk.inspect(store.url("nothing"))


@pytest.mark.slow
def test_a_killed_run_is_resumed_and_its_upload_is_aborted(s3: Store, tmp_path):
    source = sharded(tmp_path / "in", count=12)
    expected = contents(converted(source, tmp_path / "out"))
    process = subprocess.Popen(command("convert", source, s3.url("out"), "--scale", 2), env=environment(s3))
    while NAME not in s3.names("out"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = json.loads(s3.get(f"out/{NAME}"))
    assert 0 < len(finished) < 12
    left = s3.fs.call_s3("create_multipart_upload", Bucket="bucket", Key="out/model-00012-of-00012.safetensors")
    other = s3.fs.call_s3("create_multipart_upload", Bucket="bucket", Key="out/of-others.safetensors")
    assert left["UploadId"]
    result = run(s3, "convert", source, s3.url("out"), "--scale", 2, "--resume")
    assert result.returncode == 0, result.stderr
    assert f"{len(finished)} file" in result.stdout and "taken over" in result.stdout
    assert f"Wrote {s3.url('out')}: " in result.stdout
    assert s3.contents("out") == expected
    assert s3.uploads() == ["out/of-others.safetensors"]
    assert other["UploadId"]


@pytest.mark.slow
def test_an_interrupt_aborts_the_upload(s3: Store, tmp_path):
    source = file(tmp_path / "in.safetensors", layers=40, channels=160)
    process = subprocess.Popen(
        command("convert", source, s3.url("out.safetensors"), "--scale", 2), env=environment(s3),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not s3.uploads():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGINT, said
    assert "Traceback" not in said
    assert (s3.names(), s3.uploads()) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("GET", r"in\.safetensors", status=403, after=1), "does not permit this"),
        (Fault("GET", r"in\.safetensors", cut=1000, after=1), "the store "),
        (Fault("PUT", r"out\.safetensors", status=403), "does not permit this"),
        (Fault("POST", r"out\.safetensors.*uploads", status=403), "does not permit this"),
        (Fault("POST", r"out\.safetensors.*uploadId", status=403), "does not permit this"),
    ],
    ids=["reading", "a read that breaks", "writing", "beginning", "completing"],
)
def test_what_the_store_refuses_is_one_line_and_leaves_nothing(s3: Store, tmp_path, fault, said, monkeypatch):
    source = file(tmp_path / "in.safetensors", channels=160, layers=8)
    s3.put("in.safetensors", source.read_bytes())
    s3.faults.append(fault)
    result = run(s3, "convert", s3.url("in.safetensors"), s3.url("out.safetensors"), "--scale", 2, "--quiet")
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and said in lines[0] and "s3://bucket/" in lines[0], result.stderr
    s3.faults.clear()
    assert (s3.names(), s3.uploads()) == (["in.safetensors"], [])
