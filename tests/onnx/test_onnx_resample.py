"""Where no node can absorb the scale, the image is resampled in front of the graph, and every weight stays."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - after it is known to be there

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

from .running import converted, exported, graph, larger, node, normal, reduced, said  # noqa: E402
from .vision_transformer import ViT  # noqa: E402

nn = torch.nn
W = {"w": normal(4, 3, 3, 3)}
NET = [node("Conv", "x w", "y", pads=[1] * 4), node("Flatten", "y", "f"), node("Gemm", "f m", "z")]
SHAPE = (2, 3, 12, 16)
MATRIX = {"m": normal(4 * 12 * 16, 5)}


def resized(x, size, mode):
    """Torch's filter against aliasing, with Keys' constant: of both, torch gives the one of these two modes."""
    if mode == "linear":
        return torch.nn.functional.interpolate(torch.from_numpy(x), size, mode="bilinear", antialias=True).numpy()
    for axis, n in enumerate(size, 2):
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ rk.grid_operator(x.shape[axis], n, mode, gain="none").T, -1, axis)
    return x.astype(np.float32)


@pytest.mark.parametrize(
    ("scale", "options", "opset", "method"),
    [
        (1.5, {}, 18, "cubic"), (1.5, {"reading_filter": "area"}, 18, "linear"), ((1.5, 2.0), {}, 18, "cubic"),
        ((2.0, 1.25), {"method": "lanczos3"}, 18, "cubic"), (0.5, {}, 18, "cubic"), (0.5, {}, 13, "cubic"),
        (0.75, {"reading_filter": "linear"}, 13, "linear"), (2.0, {"reading_filter": "linear"}, 18, "absorbs"),
    ],
)  # fmt: skip
def test_a_scale_that_no_stride_can_absorb(scale, options, opset, method, tmp_path):
    source = graph(tmp_path / "m.onnx", NET, W | MATRIX, SHAPE, opset=opset)
    target, plan = converted(source, scale, **options)
    if method == "absorbs":
        assert [change.name for change in plan.changed] == ["w"] and not plan.modules
        return
    assert not plan.changed
    [module] = plan.modules
    assert (module.name, module.kind, module.method) == ("", "resample", method)
    x = larger(SHAPE, scale)
    assert [g.kernel for g in module.geometry] == [12, 16]
    assert [g.kernel for g in module.new_geometry] == list(x.shape[2:])
    assert np.abs(said(target, x) - said(source, resized(x, SHAPE[2:], method))).max() < 1e-4
    assert any("in front of the model" in note and "stride" in note for note in plan.warnings)
    dims = onnx.load(target).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == list(x.shape)
    assert all(np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b)) for a, b in zip(
        onnx.load(source).graph.initializer, onnx.load(target).graph.initializer, strict=False))  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 2, 24), (1, 2, 8, 8, 8)])
@pytest.mark.parametrize("scale", [2.0, 1.5, 0.5])
def test_signals_and_volumes(shape, scale, tmp_path):
    nodes = [node("Relu", "x", "a"), node("Conv", "a w", "y"), node("GlobalAveragePool", "y", "z")]
    source = graph(tmp_path / "m.onnx", nodes, {"w": normal(3, 2, *(3,) * (len(shape) - 2))}, shape)
    target, plan = converted(source, scale)
    x = larger(shape, scale)
    small = reduced(x, 2) if scale == 2 else resized_by_axis(x, shape[2:])
    assert plan.modules[0].method == ("area" if scale == 2 else "linear")
    assert np.abs(said(target, x) - said(source, small)).max() < 1e-5


def resized_by_axis(x, size):
    for axis, n in enumerate(size, 2):
        matrix = rk.grid_operator(x.shape[axis], n, "linear", gain="none")
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return x.astype(np.float32)


def test_torch_resamples_in_the_same_way(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(256, 3)).eval()
    x = torch.zeros(1, 3, 8, 8)
    for scale, options in (
        (2, {}),
        (1.5, {"reading_filter": "linear"}),
        (2.5, {"method": "cubic"}),
        (0.5, {"method": "cubic"}),
    ):
        target, plan = converted(exported(net, x, tmp_path / f"{scale}.onnx", opset_version=18), scale, **options)
        rescaled = rkt.rescale(net, scale, x, **options)
        assert [m.kind for m in plan.modules] == [m.kind for m in rescaled.rekernel_plan.modules] == ["resample"]
        large = larger((1, 3, 8, 8), scale)
        with torch.no_grad():
            assert np.abs(said(target, large) - rescaled(torch.from_numpy(large)).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("opset", "scale", "word"), [(17, 1.5, "opset 18 or later"), (12, 0.5, "opset 18 or later"), (17, 3.5, "opset 17")]
)
def test_an_opset_without_such_an_operator_is_refused(opset, scale, word, tmp_path):
    source = graph(tmp_path / "m.onnx", NET, W | MATRIX, SHAPE, opset=opset)
    with pytest.raises(rk.RekernelError, match=word):
        converted(source, scale)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("scale", [2.0, 1.5, 0.5])
def test_images_of_other_dtypes(kind, scale, tmp_path):
    """An image of whole numbers is rounded to the nearest, and stays in their range."""
    floats = [node("Cast", "x", "a", to=1), node("Relu", "a", "b"), node("Conv", "b w", "y"),
              node("GlobalAveragePool", "y", "z")]  # fmt: skip
    source = graph(tmp_path / "m.onnx", floats, W, (1, 3, 8, 8), kind=kind)
    target, plan = converted(source, scale)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    x = np.random.default_rng(0).uniform(0, 255, larger((1, 3, 8, 8), scale).shape).astype(dtype)
    wide = x.astype(np.float32)
    small = reduced(wide, 2) if scale == 2 else resized(wide, (8, 8), plan.modules[0].method)
    if kind == TensorProto.UINT8:
        small = np.clip(np.round(small), 0, 255)
    close = 2e-2 if kind == TensorProto.UINT8 else 2e-3  # a half of rounding error may fall on either side
    expected = said(source, small.astype(dtype))
    assert np.abs(said(target, x) - expected).max() <= close * np.abs(expected).max()


@pytest.mark.parametrize("scale", [2.0, 1.5, 1 / 3, 1.2])
def test_open_sides_stay_open(scale, tmp_path):
    nodes = [node("Relu", "x", "a"), node("Conv", "a w", "y"), node("GlobalAveragePool", "y", "z")]
    source = graph(tmp_path / "m.onnx", nodes, W, ("batch", 3, "height", "width"))
    target, plan = converted(source, scale)
    dims = onnx.load(target).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", 3, "height", "width"]
    small = (30, 60)
    x = larger((2, 3, *small), scale)
    method = plan.modules[0].method
    expected = said(source, reduced(x, 2) if method == "area" else resized(x, small, method))
    assert np.abs(said(target, x) - expected).max() < 1e-5


def test_graphs_inside_of_nodes_read_the_resampled_image_too(tmp_path):
    def branch(op):
        out = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, (1, 3, 8, 8))
        return helper.make_graph([helper.make_node(op, ["x"], [f"{op}_out"])], op, [], [out])

    nodes = [
        node("ReduceMax", "x", "m", keepdims=0), node("Greater", "m zero", "c"),
        helper.make_node("If", ["c"], ["b"], "b", then_branch=branch("Relu"), else_branch=branch("Sigmoid")),
        node("Conv", "b w", "y"), node("GlobalAveragePool", "y", "z"),
    ]  # fmt: skip
    source = graph(tmp_path / "m.onnx", nodes, W | {"zero": np.float32(0)})
    target, plan = converted(source)
    assert plan.modules[0].kind == "resample"
    x = larger((1, 3, 8, 8), 2)
    for image in (x, -np.abs(x)):
        assert np.abs(said(target, image) - said(source, reduced(image, 2))).max() < 1e-5


def test_every_image_among_the_inputs_is_resampled(tmp_path):
    nodes = [node("Max", "x mask", "a"), node("Conv", "a w", "y"), node("GlobalAveragePool", "y", "z")]
    source = graph(tmp_path / "m.onnx", nodes[1:], {"w": normal(4, 3, 3, 3), "a": normal(1)})
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, 1, (1, c, 8, 8)) for n, c in (("x", 3), ("mask", 1))],
        [helper.make_tensor_value_info("z", 1, (1, 4, 1, 1))], [numpy_helper.from_array(W["w"], "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), source)
    target, _ = converted(source)
    import onnxruntime

    x, mask = larger((1, 3, 8, 8), 2), larger((1, 1, 8, 8), 2, seed=5)
    answers = [
        onnxruntime.InferenceSession(path).run(None, {"x": a, "mask": b})[0]
        for path, a, b in ((target, x, mask), (source, reduced(x, 2), reduced(mask, 2)))
    ]
    assert np.abs(answers[0] - answers[1]).max() < 1e-5


@pytest.mark.parametrize("case", ["absorbs", "resamples", "dilates", "keeps its patches"])
def test_a_plan_that_was_written_down_is_carried_out_again(case, tmp_path):
    scale, options = 2.0, {}
    if case == "keeps its patches":
        torch.manual_seed(0)
        source, scale = exported(ViT(24), torch.zeros(1, 3, 24, 24), tmp_path / "m.onnx"), 7 / 6
    else:
        pool = node("AveragePool", "y", "p", kernel_shape=[2, 2], strides=[2, 2])
        nodes = [NET[0], pool, node("Flatten", "p", "f"), NET[2]]
        source = graph(tmp_path / "m.onnx", nodes, W | {"m": normal(4 * 6 * 8, 5)}, SHAPE, opset=19)
        scale = 1.5 if case == "resamples" else 2.0
        options = {"mode": "supersample"} if case == "dilates" else {}
    direct, _ = converted(source, scale, **options)
    plan = rk.Plan.from_json(rk.plan_source(source, scale=scale, **options)[""].to_json())
    again = tmp_path / "again.onnx"
    rk.convert(source, again, plan=plan)
    assert again.read_bytes() == direct.read_bytes()
    kinds = {m.kind for m in plan.modules}
    assert kinds == {"resamples": {"resample"}, "dilates": {"avg-pool"}}.get(case, set())
    if case == "resamples":
        other = graph(tmp_path / "o.onnx", NET, W | {"m": normal(4 * 16 * 16, 5)}, (2, 3, 16, 16))
        with pytest.raises(rk.RekernelError, match="an image of another size"):
            rk.convert(other, tmp_path / "no.onnx", plan=plan)


@pytest.mark.parametrize("token", [True, False])
def test_a_vision_transformer_keeps_patches_that_cannot_grow(token, tmp_path):
    """Its positions are interpolated, those of the class token not; torch's planner gives the same network."""
    torch.manual_seed(0)
    net, x = ViT(24, 4, token).eval(), torch.zeros(1, 3, 24, 24)
    target, plan = converted(exported(net, x, tmp_path / "m.onnx"), 7 / 6)
    assert [(c.shape[1], c.new_shape[1]) for c in plan.changed] == [(36 + token, 49 + token)] and not plan.modules
    assert any(f"attention looks at {49 + token} tokens instead of {36 + token}" in note for note in plan.warnings)
    [patch] = [c for c in plan.changes if "patches of 4x4 pixels stay" in c.reason]
    assert patch.kept
    rescaled = rkt.rescale(net, 7 / 6, x)
    large = larger((1, 3, 24, 24), 7 / 6)
    with torch.no_grad():
        assert np.abs(said(target, large) - rescaled(torch.from_numpy(large)).numpy()).max() < 1e-5


def test_a_vision_transformer_that_cannot_keep_them_gets_the_image_resampled(tmp_path):
    """Patches that do not fill the new image, and positions that are no constant of their own."""
    torch.manual_seed(0)

    class Registers(ViT):
        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([x, self.token], 1) + self.places
            return self.out((x @ x.transpose(1, 2)).softmax(-1).sum(-1, keepdim=True).expand(-1, -1, 16).mean(1))

    for number, (net, scale, word) in enumerate(
        [(ViT(24), 1.1, "not a whole number"), (Registers(24), 7 / 6, "behind")]
    ):
        source = exported(net, torch.zeros(1, 3, 24, 24), tmp_path / f"{number}.onnx", opset_version=18)
        target, plan = converted(source, scale)
        assert [m.kind for m in plan.modules] == ["resample"] and not plan.changed
        assert any(word in note for note in plan.warnings), plan.warnings
        x = larger((1, 3, 24, 24), scale)
        assert np.abs(said(target, x) - said(source, resized(x, (24, 24), "cubic"))).max() < 1e-4


@pytest.mark.parametrize(("opset", "shape"), [
    (13, (2, 3, 30, 32)), (13, ("batch", 3, 30, 32)), (18, ("batch", 3, 30, 32)), (18, (2, 3, "height", 32)),
    (18, (2, 3, 30, 11)),
], ids=str)  # fmt: skip
def test_an_image_of_the_new_size_becomes_one_of_the_trained_size(opset, shape, tmp_path):
    """30 pixels at scale .35 are 11, and 11 / .35 would be 31; so would 32 and 11 go back to 31 and 9."""
    nodes = [node("Relu", "x", "a"), node("Conv", "a w", "y", pads=[1] * 4)]
    source = graph(tmp_path / "m.onnx", nodes, W, shape, opset=opset)
    target, plan = converted(source, 0.35, mode="absorb")
    open_side = shape[2] == "height"
    old = (20 if open_side else 30, shape[3])
    x = np.random.default_rng(0).normal(size=(2, 3, 7 if open_side else 11, {32: 11, 11: 4}[shape[3]]))
    x = x.astype(np.float32)
    expected = said(source, resized(x, old, plan.modules[0].method))
    assert said(target, x).shape == expected.shape == (2, 4, *old)
    assert np.abs(said(target, x) - expected).max() < 1e-5
