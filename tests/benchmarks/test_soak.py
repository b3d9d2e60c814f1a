"""The soak at a small number; `make soak` runs it whole."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import soak
import soak_checkpoints
import soak_oracle

import rekernel as rk


@pytest.mark.slow
def test_random_conversions_and_cycles_leave_nothing_and_are_right():
    pytest.importorskip("diffusers")
    report = soak.soak(60, 12)
    assert report["conversions"]["compared"] > 30 and report["attaching"]["cycles"] >= 12


def test_a_few_random_conversions_are_what_the_oracle_computes(tmp_path):
    counts = soak_checkpoints.run(12, 0, tmp_path)
    assert counts["compared"] > 5 and counts["converted"] > 5 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["a value", "a kept byte"])
def test_the_oracle_notices(what, tmp_path):
    """A result with one wrong last bit but one, or one other byte in a tensor that stays."""
    rng, numbers = random.Random(0), np.random.default_rng(0)
    tensors = {"a.weight": ("F32", (4, 4, 3, 3), numbers.normal(size=144).astype("<f4").tobytes())}
    tensors["b"] = ("U8", (9,), bytes(range(9)))
    soak_checkpoints.write(tmp_path / "in.safetensors", tensors, {})
    target = tmp_path / "out.safetensors"
    report = rk.convert(tmp_path / "in.safetensors", target, scale=2, method="cubic", mode="supersample")
    soak_checkpoints.check(0, tensors, target, report, None, Counter())
    found, metadata = soak_oracle.read(target)
    dtype, shape, data = found[name := "a.weight" if what == "a value" else "b"]
    if what == "a value":
        values = np.frombuffer(data, "<f4").copy()
        values[rng.randrange(4) + 700] += 1e-4
        data = values.tobytes()
    else:
        data = data[:-1] + b"\xff"
    soak_checkpoints.write(target, {**found, name: (dtype, shape, data)}, metadata)
    with pytest.raises(AssertionError):
        soak_checkpoints.check(0, tensors, target, report, None, Counter())
