"""Tensors without values, whose other sizes are as large as a header can say: no work may grow with those sizes."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

import rekernel as rk
from rekernel.checkpoint.header import build_header
from rekernel.checkpoint.open_local import open_checkpoint
from rekernel.conversion.output_files import OutputFile, output_tensors
from rekernel.conversion.streaming import peak_bytes, pieces
from rekernel.offline import estimate

MANY = 2**48 - 1
SHAPES = [(MANY, 0, 3, 3), (0, MANY, 3, 3), (MANY, 3, 0, 3), (MANY, 0, 3), (MANY, 0), (0,), (0, 3, 3, 3), (8, 0, 3, 3)]
NAMES = ["conv.weight", "fc.weight", "pos_embed", "norm.bias", "lora_unet_conv1.lora_down.weight", "a.weight_v"]


def checkpoint(path, *empty):
    """A file with one ordinary convolution and these empty tensors."""
    values = np.linspace(-1, 1, 4 * 3 * 3 * 3, dtype=np.float32)
    header, _ = build_header([("first.weight", "F32", (4, 3, 3, 3)), *empty])
    path.write_bytes(header + values.tobytes())
    return path


@pytest.mark.parametrize("dtype", [None, "BF16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_empty_tensor_has_no_pieces_and_gets_the_shape_that_the_plan_says(shape, dtype, tmp_path):
    empty = [(name, "F32", shape) for name in NAMES]
    source = checkpoint(tmp_path / "in.safetensors", *empty)
    plan = rk.plan_checkpoint(source, scale=2, mode="supersample")
    planned = {change.name: change.new_shape for change in plan.changes}
    with open_checkpoint(source) as opened:
        tensors = [t for t in output_tensors(opened, plan, dtype) if t.change.name in NAMES]
    file = OutputFile("out.safetensors", tuple(tensors))
    assert not list(islice(pieces(file), 3))
    assert peak_bytes((file,)) == 0
    assert estimate(source, plan, dtype=dtype).output_bytes == 4 * 3 * 5 * 5 * (2 if dtype else 4)
    report = rk.convert(source, tmp_path / "out.safetensors", plan=plan, dtype=dtype)
    with open_checkpoint(report.target) as written:
        assert {name: info.shape for name, info in written.tensors.items()} == planned
        assert {written.tensors[name].dtype for name in NAMES} == {dtype or "F32"}


def test_the_length_of_a_direction_without_values_stays(tmp_path):
    header, _ = build_header([("a.weight_g", "F32", ()), ("a.weight_v", "F32", (MANY, 0, 3, 3))])
    value = np.float32(1.5).tobytes()
    (tmp_path / "in.safetensors").write_bytes(header + value)
    hints = rk.Hints(layout={"a.weight_v": "OIHW"})
    report = rk.convert(
        tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, mode="supersample", hints=hints
    )
    assert report.tensors_changed == 2
    assert report.target.read_bytes().endswith(value)
