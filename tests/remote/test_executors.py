"""An executor writes into a store what one process writes there."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import rekernel as rk

from .conftest import Store
from .models import contents, converted, sharded


def test_threads_read_from_and_write_into_a_store(store: Store, tmp_path):
    folder = sharded(tmp_path / "in")
    address = store.upload(folder, "in")
    expected = contents(converted(folder, tmp_path / "out"))
    alone = rk.convert(folder, store.url("alone"), scale=2)
    with ThreadPoolExecutor(3) as pool:
        report = rk.convert(address, store.url("both"), scale=2, executor=pool)
        rk.convert(address, tmp_path / "here", scale=2, executor=pool)
    assert store.contents("both") == expected == contents(tmp_path / "here")
    assert report.bytes_written == alone.bytes_written
    assert store.uploads() == []


@pytest.mark.slow
def test_processes_read_from_and_write_into_s3(s3: Store, tmp_path):
    folder = sharded(tmp_path / "in")
    address = s3.upload(folder, "in")
    expected = contents(converted(folder, tmp_path / "out"))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        rk.convert(address, s3.url("out"), scale=2, executor=pool)
    assert s3.contents("out") == expected
    assert s3.uploads() == []


def test_parts_of_a_store_on_a_disk(store: Store, tmp_path):
    folder = sharded(tmp_path / "in")
    address = store.upload(folder, "in")
    for number in (1, 2):
        rk.convert(address, tmp_path / "out", scale=2, part=f"{number}/2")
    rk.convert(address, tmp_path / "out", scale=2, finish=True)
    assert contents(tmp_path / "out") == contents(converted(folder, tmp_path / "expected"))
    for number in (1, 2):
        rk.convert(address, tmp_path / "again", scale=2, part=f"{number}/2")
    store.put("in/model-00001-of-00003.safetensors", store.get("in/model-00001-of-00003.safetensors"))
    with pytest.raises(rk.RekernelError, match=r"model-00001.*changed since a part has hashed the file"):
        rk.convert(address, tmp_path / "again", scale=2, finish=True)


def test_parts_are_for_disks(store: Store, tmp_path):
    folder = sharded(tmp_path / "in")
    with pytest.raises(rk.RekernelError, match="parts are written to a disk that all runs share"):
        rk.convert(folder, store.url("out"), scale=2, part="1/2")
    assert store.names("out") == []
