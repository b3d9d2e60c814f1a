"""What is a hole in a source stays one in the result, and a checkpoint of any size takes little memory."""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import pytest
import safetensors.numpy as st

import rekernel as rk
from rekernel.checkpoint.header import build_header

MEGABYTE = 1 << 20


def on_disk(path):
    return path.stat().st_blocks * 512


def sparse(path, tensors, *data):
    """A file of weights whose data are holes, but for (tensor, first byte, values)."""
    header, infos = build_header(tensors, {"format": "pt"})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + max(info.end for info in infos.values()))
        for name, start, values in data:
            file.seek(len(header) + infos[name].start + start)
            file.write(values.tobytes())
    return path


@pytest.fixture
def holes(tmp_path):
    probe = tmp_path / "probe"
    with probe.open("wb") as file:
        file.truncate(MEGABYTE)
    if not hasattr(os, "SEEK_DATA") or on_disk(probe) >= MEGABYTE:
        pytest.skip("this file system has no holes")


def test_holes_stay_and_every_value_is_right(tmp_path, holes):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(8, 8, 3, 3)).astype(np.float32)
    middle = np.zeros(40 * MEGABYTE // 4, np.float32)
    middle[3_000_000:3_000_100] = rng.normal(size=100)
    tensors = [
        ("empty.weight", "F32", (10 * MEGABYTE,)), ("conv.weight", "F32", (8, 8, 3, 3)),
        ("middle.weight", "F32", middle.shape), ("end.weight", "F32", (5 * MEGABYTE,)),
    ]  # fmt: skip
    some = middle[3_000_000:3_000_100]
    data = ("conv.weight", 0, kernel), ("middle.weight", 12_000_000, some)
    source = sparse(tmp_path / "in.safetensors", tensors, *data)
    assert (st.load_file(source)["middle.weight"] == middle).all()
    report = rk.convert(source, tmp_path / "out.safetensors", scale=2)
    found = st.load_file(report.target)
    assert (found["middle.weight"] == middle).all()
    assert not found["empty.weight"].any()
    assert not found["end.weight"].any()
    st.save_file({"conv.weight": kernel}, tmp_path / "dense.safetensors")
    alone = rk.convert(tmp_path / "dense.safetensors", tmp_path / "alone.safetensors", scale=2)
    assert (found["conv.weight"] == st.load_file(alone.target)["conv.weight"]).all()
    assert report.target.stat().st_size > 100 * MEGABYTE
    assert on_disk(report.target) < 2 * MEGABYTE


@pytest.mark.slow
def test_sixty_gigabytes_in_less_than_one_of_memory(tmp_path, holes):
    psutil = pytest.importorskip("psutil")
    source, weight_map, shards = tmp_path / "source", {}, 12
    source.mkdir()
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        tensors = [(f"b{i}.{j}.linear.weight", "BF16", (16384, 16384)) for j in range(9)]
        tensors.append((f"b{i}.conv.weight", "BF16", (1280, 1280, 3, 3)))
        sparse(source / name, tensors)
        weight_map |= {label: name for label, *_ in tensors}
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert sum(path.stat().st_size for path in source.iterdir()) > 57e9
    command = [sys.executable, "-m", "rekernel", "convert", str(source), str(tmp_path / "out"), "--scale", "2", "-q"]
    with (tmp_path / "said").open("w") as said:
        process = psutil.Popen(command, stderr=said)
        peak = 0
        while process.poll() is None:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.1)
    assert process.returncode == 0, (tmp_path / "said").read_text()
    assert 10e6 < peak < 1e9
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) > 57e9
