"""A dilated graph whose image is read by area is the trained graph at every phase, and keeps its inner weights."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import rekernel as rk  # noqa: E402 - after it is known to be there
import rekernel.torch as rkt  # noqa: E402
from rekernel.onnx.graph import attributes  # noqa: E402

from .running import converted, exported, graph, larger, node, normal, reduced, said  # noqa: E402

nn = torch.nn
DILATED = {"mode": "supersample", "method": "dilate", "reading_filter": "area"}
SHAPE = (1, 3, 32, 32)
CONSTANTS = {
    "w": normal(4, 3, 3, 3), "b": normal(4, seed=1), "g": np.abs(normal(4, seed=2)), "v": normal(4, 4, 3, 3, seed=3),
    "u": normal(4, 1, 3, 3, seed=4), "t": normal(2, 4, 2, 2, seed=5), "e": normal(4, 4, 1, 1, seed=6),
}  # fmt: skip


def body():
    """A stem that strides, batch norm, a residual of dilated and grouped convolutions, and three kinds of strides."""
    return [
        node("Conv", "x w b", "a0", pads=[1] * 4, strides=[2, 2]),
        node("BatchNormalization", "a0 g b b g", "a"), node("Relu", "a", "r"),
        node("Conv", "r v b", "c", pads=[2] * 4, dilations=[2, 2]),
        node("Conv", "c u", "d", pads=[1] * 4, group=4), node("Add", "r d", "s"),
        node("MaxPool", "s", "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Conv", "p e", "q", strides=[1, 1]), node("AveragePool", "q", "h", kernel_shape=[2, 2], strides=[1, 1]),
        node("Conv", "h t", "z", strides=[2, 2]),
    ]  # fmt: skip


@pytest.mark.parametrize("opset", [18, 19])
@pytest.mark.parametrize("scale", [2, 3])
def test_every_phase_is_the_trained_graph_on_a_shifted_picture(scale, opset, tmp_path):
    """N'(x)[s m + q] = N(D shift_qT x)[m]: at phase 0 the border too, at others inside."""
    shape = (1, 3, 96, 96)
    source = graph(tmp_path / "m.onnx", body(), CONSTANTS, shape, opset=opset)
    target, _ = converted(source, scale, **DILATED)
    x = larger(shape, scale)
    given = said(target, x)
    size = said(source, reduced(x, scale)).shape[-1]
    assert given.shape[-1] == scale * size
    stride = 8  # in front of the output
    for q in range(scale):
        for p in range(scale):
            shifted = np.pad(x, [(0, 0), (0, 0), (0, q * stride), (0, p * stride)])[:, :, q * stride :, p * stride :]
            expected = said(source, reduced(shifted, scale))
            inside = slice(None) if q == p == 0 else slice(2, size - 3)
            close = np.abs(given[..., q::scale, p::scale] - expected)[..., inside, inside]
            assert close.size and close.max() < 1e-5 * np.abs(expected).max()


def test_inner_weights_stay_and_their_taps_are_spread(tmp_path):
    source = graph(tmp_path / "m.onnx", body(), CONSTANTS, SHAPE, opset=19)
    target, plan = converted(source, **DILATED)
    nodes = {n.name: attributes(n) for n in onnx.load(target).graph.node}
    assert nodes["c"]["dilations"] == [4, 4] and nodes["c"]["kernel_shape"] == [3, 3]
    assert nodes["d"]["dilations"] == [2, 2] and nodes["h"]["dilations"] == [2, 2] and nodes["p"]["dilations"] == [2, 2]
    old, new = ({t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
                for path in (source, target))  # fmt: skip
    assert all(np.array_equal(old[name], new[name]) for name in old if name != "w")
    changes = {change.name: change for change in plan.changed}
    assert {n for n, c in changes.items() if c.factors} == {"v", "u", "t"} and changes["w"].operators
    assert changes["v"].shape == changes["v"].new_shape


def test_an_average_pooling_of_an_older_opset_is_a_convolution(tmp_path):
    for opset, op in ((18, "Conv"), (19, "AveragePool")):
        source = graph(tmp_path / f"{opset}.onnx", body(), CONSTANTS, SHAPE, opset=opset)
        made = onnx.load(converted(source, **DILATED)[0]).graph
        [pool] = [n for n in made.node if n.name == "h"]
        assert pool.op_type == op
    nodes = [*body()[:3], node("AveragePool", "r", "z", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)]
    for opset in (18, 19):  # the padding does not count
        source = graph(tmp_path / f"out-{opset}.onnx", nodes, CONSTANTS, SHAPE, opset=opset)
        x = larger(SHAPE, 2)
        given, expected = said(converted(source, **DILATED)[0], x), said(source, reduced(x, 2))
        assert np.abs(given[..., ::2, ::2] - expected).max() < 1e-5


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("include", [True, False])
def test_poolings_agree_with_those_of_torch(scale, include, tmp_path):
    """Windows, padding that counts or does not, and padding that is larger than the window."""
    for number, pool in enumerate([
        nn.AvgPool2d(2), nn.AvgPool2d(3, 2), nn.AvgPool2d(3, 1, 1, count_include_pad=include), nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2, 2), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=include),
        nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, ceil_mode=True),
    ]):  # fmt: skip
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), pool, nn.Conv2d(4, 2, 3, padding=1)).eval()
        source = exported(net, torch.zeros(1, 3, 16, 16), tmp_path / f"{number}.onnx", opset_version=20)
        for options in (DILATED, {"mode": "supersample", "method": "optimal"}):
            rescaled, x = rkt.rescale(net, scale, torch.zeros(1, 3, 16, 16), **options), larger((1, 3, 16, 16), scale)
            target, _ = converted(source, scale, **options)
            with torch.no_grad():
                assert np.abs(said(target, x) - rescaled(torch.from_numpy(x)).numpy()).max() < 1e-5


def test_a_half_size_says_that_its_kernels_shrink(tmp_path):
    nodes = [node("Conv", "x w b", "a", pads=[1] * 4), node("Conv", "a v", "z", pads=[1] * 4)]
    source = graph(tmp_path / "m.onnx", nodes, {k: CONSTANTS[k] for k in "wbv"}, (1, 3, 16, 16))
    [note] = rk.plan_source(source, scale=0.5)[""].warnings
    assert "kernels shrink by the scale 0.5" in note and "mode absorb" in note
    target, plan = converted(source, 0.5, mode="absorb")
    assert plan.modules[0].kind == "resample" and said(target, larger((1, 3, 16, 16), 0.5)).shape == (1, 4, 16, 16)
