"""A rescaled ONNX pooling reads what the trained one read: windows that hang over, and padding of two sides."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import rekernel as rk  # noqa: E402 - after it is known to be there

from .running import converted, graph, larger, node, normal, said  # noqa: E402

DILATED = {"mode": "supersample", "method": "dilate", "reading_filter": "area"}
CENTRED = {"mode": "supersample", "method": "optimal"}
SAME = {"w": np.pad(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), [(0, 0), (0, 0), (1, 1), (1, 1)])}
"""A kernel of 3 taps that gives each pixel back."""


def source_of(path, shape, opset, op, **attributes):
    """A pooling, and a convolution that changes nothing."""
    nodes = [node(op, "x", "a", **attributes), node("Conv", "a w", "z", pads=[1] * 4)]
    return graph(path, nodes, SAME, (1, 3, *shape), opset=opset)


def rescaled(source, scale, **options):
    """The converted file; None where ONNX's shape inference and onnxruntime disagree about the trained one."""
    try:
        return converted(source, scale, **options)[0]
    except rk.RekernelError as error:
        assert "export the model with ceil_mode=False" in str(error)
        return None


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("opset", [11, 18, 19, 22])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "AveragePool, padding counts"])
def test_phase_0_is_the_trained_pooling_and_with_stride_1_every_phase_is(op, opset, scale, tmp_path):
    counts = {"count_include_pad": 1} if "counts" in op else {}
    op = op.partition(",")[0]
    for k, t, ceil, n, pads in itertools.product((2, 3), (1, 2), (0, 1), (7, 8), ([0, 0], [1, 1], [0, 1], [1, 0])):
        kernel, sides = [k, 2], [pads[0], 0, pads[1], 1]
        source = source_of(
            tmp_path / "m.onnx",
            (n, 9),
            opset,
            op,
            kernel_shape=kernel,
            strides=[t, 1],
            pads=sides,
            ceil_mode=ceil,
            **counts,
        )
        x, target = larger((1, 3, n, 9), scale), rescaled(source, scale, **DILATED)
        if target is None:
            continue
        y, right = said(target, x), said(source, x[..., ::scale, ::scale])
        assert y.shape[2:] == tuple(scale * m for m in right.shape[2:])
        for q in range(scale if t == 1 else 1):
            for r in range(scale):
                phase = said(source, np.ascontiguousarray(x[..., q::scale, r::scale]))
                assert np.abs(y[..., q::scale, r::scale] - phase).max() < 1e-5, (k, t, ceil, n, pads, q, r)


@pytest.mark.parametrize("options", [DILATED, CENTRED], ids=["dilated", "centred"])
@pytest.mark.parametrize("opset", [11, 18, 19])
def test_the_average_or_maximum_of_a_constant_is_the_constant(options, opset, tmp_path):
    for k, t, ceil, n in itertools.product((1, 2, 3, 4), (1, 2, 3), (0, 1), (7, 8, 9)):
        for op, pads in (("AveragePool", [k // 2, 0]), ("MaxPool", [0, k // 2])):
            window = {"kernel_shape": [k, k], "strides": [t, t], "ceil_mode": ceil}
            nodes = [node("Pad", "x by", "p", mode="edge"), node("Conv", "p w", "a"),
                     node(op, "a", "z", pads=[pads[0], pads[0], pads[1], pads[1]], **window)]  # fmt: skip
            constants = {**SAME, "by": np.array([0, 0, 1, 1] * 2)}
            source = graph(tmp_path / "m.onnx", nodes, constants, (1, 3, n, n), opset=opset)
            target = rescaled(source, 2, **options)
            if target is None:
                continue
            y, old = said(target, np.full((1, 3, 2 * n, 2 * n), 7, np.float32)), said(source, normal(1, 3, n, n))
            assert y.shape[2:] == tuple(2 * m for m in old.shape[2:])
            assert np.abs(y - 7).max() < 1e-4, (k, t, ceil, n, op)


def test_a_window_over_the_whole_grid_reads_the_whole_grid(tmp_path):
    constants = {"w": normal(4, 3, 3, 3), "v": normal(3, 4, seed=1), "e": normal(4, 4, 1, 1, seed=2)}
    for op, more in (
        ("AveragePool", {}),
        ("MaxPool", {}),
        ("AveragePool", {"kernel_shape": [40, 40], "strides": [40, 40], "ceil_mode": 1}),
    ):
        given = {"kernel_shape": [4, 4], "strides": [4, 4], **more}
        nodes = [
            node("Conv", "x w", "a", pads=[1] * 4, strides=[2, 2]), node(op, "a", "p", **given),
            node("Conv", "p e", "q"), node("Relu", "q", "r"), node("Flatten", "r", "f"),
            node("Gemm", "f v", "z", transB=1),
        ]  # fmt: skip
        source = graph(tmp_path / "m.onnx", nodes, constants, (1, 3, 8, 8), opset=18)
        whole = graph(
            tmp_path / "whole.onnx",
            [nodes[0], node("Global" + op, "a", "p"), *nodes[2:]], constants, (1, 3, 8, 8), opset=18,
        )  # fmt: skip
        x = larger((1, 3, 8, 8), 2)
        for options in (DILATED, CENTRED, {}):
            given = said(converted(source, 2, **options)[0], x)
            assert np.abs(given - said(converted(whole, 2, **options)[0], x)).max() < 1e-5


def test_a_pooling_to_one_pixel_that_a_larger_kernel_reads_grows(tmp_path):
    nodes = [node("Conv", "x w", "a", pads=[1] * 4), node("AveragePool", "a", "p", kernel_shape=[4, 4], strides=[4, 4]),
             node("Conv", "p v", "z", pads=[1] * 4)]  # fmt: skip
    source = graph(tmp_path / "m.onnx", nodes, {"w": normal(4, 3, 3, 3), "v": normal(2, 4, 3, 3)}, (1, 3, 4, 4))
    assert said(converted(source, 2, **DILATED)[0], larger((1, 3, 4, 4), 2)).shape == (1, 2, 2, 2)
