"""What does not change lies at the source's position modulo 4096, where a file system can share its blocks."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest
import safetensors.numpy as st

import rekernel as rk
from rekernel.checkpoint.open_local import open_checkpoint
from rekernel.conversion import shared_blocks
from rekernel.conversion.workers.task import WriteTask


def checkpoint(path, megabytes=40):
    rng = np.random.default_rng(0)
    st.save_file(
        {
            "conv.weight": rng.normal(size=(64, 64, 3, 3)).astype(np.float16),
            "linear.weight": rng.integers(0, 2**16, (megabytes << 19,), np.uint16).view(np.float16),
            "odd.weight": rng.normal(size=(1_000_003,)).astype(np.float16),
        },
        path,
        metadata={"format": "pt", "note": "x" * 100},
    )
    return path


def position(path, name):
    with open_checkpoint(path) as opened:
        return opened.shards[0].header.data_start + opened.tensors[name].start


def test_a_large_tensor_that_stays_keeps_its_position_in_a_block(tmp_path):
    source = checkpoint(tmp_path / "in.safetensors")
    report = rk.convert(source, tmp_path / "out.safetensors", scale=2)
    assert (position(report.target, "linear.weight") - position(source, "linear.weight")) % 4096 == 0
    before, after = st.load_file(source), st.load_file(report.target)
    assert (before["linear.weight"].view(np.uint16) == after["linear.weight"].view(np.uint16)).all()
    assert (before["odd.weight"] == after["odd.weight"]).all()
    assert rk.inspect(report.target).recipe is not None


def test_a_small_file_gets_no_spaces(tmp_path):
    source = checkpoint(tmp_path / "in.safetensors", megabytes=1)
    report = rk.convert(source, tmp_path / "out.safetensors", scale=2)
    with report.target.open("rb") as file:
        header = file.read(8 + int.from_bytes(file.read(8), "little"))
    assert len(header) - len(header.rstrip(b" ")) < 16


def test_every_header_of_a_task_is_the_one_that_is_written(tmp_path, monkeypatch):
    """Resuming compares headers: a header made in another way would never be found again."""
    monkeypatch.setattr(shared_blocks, "_LEAST", 1)
    source = checkpoint(tmp_path / "in.safetensors", megabytes=1)
    options = {"scale": 2, "max_shard_size": 1_500_000}
    rk.convert(source, tmp_path / "out", **options)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    seen = []
    real = WriteTask.header.fget
    monkeypatch.setattr(WriteTask, "header", property(lambda task: seen.append(real(task)) or seen[-1]))
    for number in (1, 2):
        rk.convert(source, tmp_path / "parts", **options, part=f"{number}/2")
    rk.convert(source, tmp_path / "parts", **options, finish=True)
    assert len(names) > 1 and seen
    for name in names:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
        assert any((tmp_path / "out" / name).read_bytes().startswith(header) for header in seen)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_blocks_are_shared_on_a_real_file_system(tmp_path, kind):
    make = shutil.which(f"mkfs.{kind}")
    if not make or os.getuid() or not os.path.exists("/dev/loop-control"):  # noqa: PTH110
        pytest.skip(f"needs root, loop devices and mkfs.{kind}")
    image, place = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    place.mkdir()
    subprocess.run([make, "-q", *(["-m", "reflink=1"] if kind == "xfs" else []), image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, place], check=False).returncode:
        pytest.skip(f"this system cannot mount {kind}")
    try:
        source = checkpoint(place / "in.safetensors", megabytes=100)
        os.sync()
        before = shutil.disk_usage(place).free
        report = rk.convert(source, place / "out.safetensors", scale=2)
        os.sync()
        taken = before - shutil.disk_usage(place).free
        assert report.target.stat().st_size > 100 << 20
        assert taken < 10 << 20
        again = st.load_file(report.target)["linear.weight"].view(np.uint16)
        assert (again == st.load_file(source)["linear.weight"].view(np.uint16)).all()
    finally:
        subprocess.run(["umount", place], check=True)
