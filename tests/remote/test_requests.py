"""Which bytes are asked of a store: headers for a plan, and ranges of bounded size for a conversion."""

from __future__ import annotations

import pickle
import threading

import pytest

import rekernel as rk
from rekernel.sources import store_object
from rekernel.sources.store_address import store_address
from rekernel.sources.store_file import StoreFile, store_file
from rekernel.sources.store_object import StoreObject

from .conftest import Store
from .models import file, pipeline


def asked(s3: Store, name: str) -> list[tuple[str, int]]:
    """Range and bytes of each answer to a GET of an object."""
    return [(r.range, r.sent) for r in s3.seen if r.method == "GET" and r.path.endswith(name)]


@pytest.mark.slow
def test_a_plan_and_a_listing_read_headers_alone(s3: Store, tmp_path):
    folder = pipeline(tmp_path / "in")
    file(folder / "unet" / "diffusion_pytorch_model.safetensors", channels=256)
    address = s3.upload(folder, "in")
    size = (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert size > 9_000_000
    for look in (rk.inspect, lambda source: rk.estimate(source, rk.plan_source(source, scale=2))):
        s3.seen.clear()
        look(address)
        got = asked(s3, ".safetensors")
        assert got and all(where for where, _ in got)
        assert sum(sent for _, sent in got) <= 100_000 * len(got) and len(got) <= 2
        assert asked(s3, "vocab.txt") == []


@pytest.mark.slow
@pytest.mark.parametrize("target", ["disk", "store"])
def test_a_conversion_reads_the_source_twice_by_ranges(s3: Store, tmp_path, target):
    """Once for its digest, and once for its tensors; small tensors share requests."""
    source = file(tmp_path / "in.safetensors", layers=60, channels=96)
    size = source.stat().st_size
    assert size > 20_000_000
    address = s3.put("in.safetensors", source.read_bytes())
    s3.seen.clear()
    rk.convert(address, tmp_path / "out.safetensors" if target == "disk" else s3.url("out.safetensors"), scale=2)
    got = asked(s3, "in.safetensors")
    assert all(where for where, _ in got)
    assert max(sent for _, sent in got) <= 32 << 20
    assert 1.5 * size <= sum(sent for _, sent in got) <= 2.1 * size + 100_000
    assert len(got) < 60
    parts = [r for r in s3.seen if r.method == "PUT" and "partNumber" in r.query]
    assert bool(parts) == (target == "store")


@pytest.mark.slow
def test_a_large_object_goes_in_several_parts(s3: Store):
    address = store_address(s3.url("large"))
    with StoreObject(address, force=False) as target:
        target.resize(5 * (8 << 20))
        for number in range(5):
            target.write_at(number * (8 << 20), memoryview(bytes([number]) * (8 << 20)))
    assert sum("partNumber" in r.query for r in s3.seen) == 3
    assert store_file(address).read((8 << 20) - 1, (8 << 20) + 1) == b"\0\1"
    assert s3.uploads() == []


def test_pieces_that_come_early_wait_and_too_many_wait_on_the_disk(memory: Store, monkeypatch):
    monkeypatch.setattr(store_object, "_HELD", 100)
    data = bytes(range(256)) * 4
    order = [*range(1023, 512, -1), *range(1, 513), 0]  # the first byte comes last
    with StoreObject(store_address(memory.url("x")), force=False) as target:
        target.resize(len(data))
        for position in order:
            target.write_at(position, memoryview(data)[position : position + 1])
            assert len(target._waiting._held) <= 100
        assert target._waiting._spill is not None and not target._waiting._spilled
    assert memory.contents() == {"x": data}


def test_bytes_that_are_missing_are_not_saved(memory: Store):
    with (
        pytest.raises(rk.RekernelError, match="2 of 3 bytes; nothing was saved"),
        StoreObject(store_address(memory.url("x")), force=False) as target,
    ):
        target.resize(3)
        target.write_at(0, memoryview(b"ab"))
    assert memory.names() == []


def test_an_object_that_appears_meanwhile_is_not_replaced(memory: Store):
    with (
        pytest.raises(rk.RekernelError, match="exists already"),
        StoreObject(store_address(memory.url("x")), force=False) as target,
    ):
        target.resize(1)
        target.write_at(0, memoryview(b"a"))
        memory.put("x", b"of another run")
    assert memory.contents() == {"x": b"of another run"}


def test_a_block_is_asked_for_once_and_the_error_of_one_reader_is_not_that_of_a_later_one(memory: Store, monkeypatch):
    memory.put("x", bytes(range(200)) * 100_000)
    read = store_file(store_address(memory.url("x")))
    fetched, ready = [], threading.Event()
    fetch = StoreFile.fetch

    def counted(self: StoreFile, start: int, stop: int) -> bytes:
        fetched.append((start, stop))
        ready.wait(10)
        if len(fetched) == 1:
            raise ConnectionError("once")
        return fetch(self, start, stop)

    monkeypatch.setattr(StoreFile, "fetch", counted)
    failed = []

    def reader(position: int) -> None:
        try:
            assert read.read(position, position + 3) == bytes(range(position, position + 3))
        except ConnectionError:
            failed.append(position)

    threads = [threading.Thread(target=reader, args=(position,)) for position in range(5)]
    for thread in threads:
        thread.start()
    ready.set()
    for thread in threads:
        thread.join()
    assert 0 < len(fetched) <= 1 + 5 - len(failed)
    before = len(fetched)
    for position in range(0, 4 << 20, 1 << 20):
        assert read.read(position, position + 2) == bytes([position % 200, (position + 1) % 200])
    assert len(fetched) <= before + 1


def test_a_reader_of_another_process_reads_the_same_version(memory: Store):
    memory.put("x", b"0123456789")
    read = pickle.loads(pickle.dumps(store_file(store_address(memory.url("x")))))
    assert read.read(2, 5) == b"234"
    read.check_unchanged()
    memory.put("x", b"0123456789")
    with pytest.raises(rk.RekernelError, match="changed while it was read"):
        read.check_unchanged()
