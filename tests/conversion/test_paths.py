"""What the system says of a path is one line of `RekernelError` for every public function."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import rekernel as rk

pytestmark = pytest.mark.skipif(os.name == "nt", reason="permissions and links of POSIX")

NAMES = ["zero byte", "long", "loop", "below a file", "not searched", "in what is not searched", "not listed"]


@pytest.fixture
def place(tmp_path):
    """A good file, a good folder, and a folder of bad paths; as a user who is not root, where that is possible."""
    tensors = {"a.weight": np.ones((4, 4, 3, 3), np.float32)}
    for folder in ("good", "closed", "unlisted", "target"):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "model.safetensors").chmod(0o644)
    (tmp_path / "target" / "model.safetensors").unlink()
    (tmp_path / "good" / "config.json").write_text("{}")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    rk.convert(tmp_path / "good", tmp_path / "warm", scale=2)  # imports what it needs, as root
    rk.convert(tmp_path / "good", tmp_path / "warm", scale=2, force=True)
    (tmp_path / "closed").chmod(0o644)
    (tmp_path / "unlisted").chmod(0o311)
    (tmp_path / "target").chmod(0o777)
    opened = [p for p in (tmp_path, *tmp_path.parents) if not p.stat().st_mode & 0o001]
    if os.geteuid() == 0:
        modes = [(p, p.stat().st_mode) for p in opened]
        for path, mode in modes:
            path.chmod(mode | 0o011)
        os.setegid(65534)
        os.seteuid(65534)
    yield tmp_path
    if os.getuid() == 0:
        os.seteuid(0)
        os.setegid(0)
        for path, mode in modes:
            path.chmod(mode)
    (tmp_path / "closed").chmod(0o755)
    (tmp_path / "unlisted").chmod(0o755)


def bad(place):
    return {
        "zero byte": "a\0b", "long": "x" * 5000, "loop": place / "loop",
        "below a file": place / "good" / "config.json" / "x", "not searched": place / "closed",
        "in what is not searched": place / "closed" / "model.safetensors", "not listed": place / "unlisted",
    }  # fmt: skip


def one_line(call, *arguments, **options):
    with pytest.raises(rk.RekernelError) as caught:
        call(*arguments, **options)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 3000
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_source(name, place):
    path = bad(place)[name]
    plan = rk.Plan(())
    said = [
        one_line(rk.inspect, path), one_line(rk.plan_checkpoint, path, 2), one_line(rk.plan_source, path, 2),
        one_line(rk.estimate, path, plan), one_line(rk.convert, path, place / "target" / "x.safetensors", scale=2),
    ]  # fmt: skip
    if name == "in what is not searched":
        assert all(f"the folder {place / 'closed'} may not be searched" in text for text in said)
    assert list((place / "target").iterdir()) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "not listed"])
def test_a_bad_target(name, place):
    path, good = bad(place)[name], place / "good"
    for options in ({}, {"force": True}, {"resume": True}):
        one_line(rk.convert, good, path, scale=2, **options)
        one_line(rk.convert, good / "model.safetensors", f"{path}/", scale=2, **options)


def test_an_error_of_the_callers_own_code_is_not_changed(tmp_path):
    save_file({"a.weight": np.ones((4, 4, 3, 3), np.float32)}, tmp_path / "x.safetensors")

    def progress(done, total):
        raise ConnectionResetError(104, "of the caller")

    with pytest.raises(ConnectionResetError, match="of the caller"):
        rk.convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", scale=2, progress=progress)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are not bytes")
def test_a_name_that_no_file_can_have(tmp_path):
    assert "no path on this system has" in one_line(rk.inspect, "\ud800")
