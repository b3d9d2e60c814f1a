"""A folder of parts in which something changed, or in which somebody else left files, never makes a wrong result."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import safetensors.numpy as st

import rekernel as rk
from rekernel.conversion.workers.part import Part

from .models import contents, sharded


@pytest.fixture
def source(tmp_path):
    return sharded(tmp_path / "source")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out"


def written(target, name):
    [found] = (target.parent / ".out.rekernel-parts").rglob(name)
    return found


def test_a_part_that_runs_again_after_the_source_changed_writes_the_new_values(source, target):
    """The header of a part does not tell the two sources apart: it has the same names, shapes and placeholders."""
    rk.convert(source, target, scale=2, part="1/1")
    shard = source / "model-00002-of-00004.safetensors"
    tripled = {name: (values * 3).astype(np.float16) for name, values in st.load_file(shard).items()}
    st.save_file(tripled, shard, metadata={"format": "pt"})
    rk.convert(source, target, scale=2, part="1/1")
    rk.convert(source, target, scale=2, finish=True)
    rk.convert(source, target.parent / "alone", scale=2)
    assert contents(target) == contents(target.parent / "alone")
    assert sorted(path.name for path in target.parent.iterdir()) == ["alone", "out", "source"]


@pytest.mark.parametrize("digest", ["", "x", "F" * 64, "0" * 65, 5])
def test_a_digest_of_another_kind_is_refused(source, target, digest):
    """A digest of another length would move the tensors in the file."""
    rk.convert(source, target, scale=2, part="1/1")
    path = written(target, "digest-*-1.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": digest}))
    with pytest.raises(rk.RekernelError, match=r"digest-\w+-1.json: no part wrote this file; remove it"):
        rk.convert(source, target, scale=2, finish=True)
    rk.convert(source, target, scale=2, part="1/1")
    rk.convert(source, target, scale=2, finish=True)


def test_a_link_among_the_parts_is_not_followed(source, target):
    rk.convert(source, target, scale=2, part="1/1")
    path, other = written(target, "model-00001-of-00004.safetensors"), target.parent / "other.safetensors"
    path.rename(other)
    path.symlink_to(other)
    before = other.read_bytes()
    with pytest.raises(rk.RekernelError, match="repeat the options of the parts"):
        rk.convert(source, target, scale=2, finish=True)
    rk.convert(source, target, scale=2, part="1/1")
    rk.convert(source, target, scale=2, finish=True)
    assert other.read_bytes() == before
    assert not (target / path.name).is_symlink()


def test_a_pipe_among_the_parts_is_told(source, target):
    """To open a pipe waits for somebody who writes into it."""
    rk.convert(source, target, scale=2, part="1/1")
    path = written(target, "model-00001-of-00004.safetensors")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(rk.RekernelError, match="not a regular file"):
        rk.convert(source, target, scale=2, part="1/1")


def test_more_parts_than_memory_has_numbers():
    sizes = {"a": 5, "b": 9, "c": 1}
    assert [Part(number, 10**9 - 1).share(sizes) for number in (1, 2, 3, 4)] == [["b"], ["a"], ["c"], []]
