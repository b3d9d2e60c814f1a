"""A graph that absorbs the scale is the trained graph on the image reduced by the area: N'(x) = N(Dx), to 1e-5."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx  # noqa: E402 - after it is known to be there

import rekernel as rk  # noqa: E402

from .running import converted, exported, graph, ints, larger, node, normal, reduced, said  # noqa: E402
from .vision_transformer import ViT  # noqa: E402

nn = torch.nn


def same(source, shape, scale=2, **options):
    """Convert, run both, compare; the plan is returned."""
    target, plan = converted(source, scale, **options)
    x = larger(shape, scale)
    expected = said(source, reduced(x, scale))
    given = said(target, x)
    assert given.shape == expected.shape
    assert np.abs(given - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    return plan


def absorbed(plan):
    return {change.name: change.mode for change in plan.changed}


W = {"w": normal(4, 3, 3, 3)}
HEAD = [node("GlobalAveragePool", "y", "z")]


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        (3, {"pads": [1] * 4}), (3, {"pads": [1] * 4, "strides": [2, 2]}), (4, {"pads": [1, 2, 1, 2]}),
        (5, {"pads": [2, 0, 1, 3], "strides": [1, 3]}), (7, {"pads": [3] * 4, "strides": [2, 2]}), (1, {}),
        (1, {"strides": [2, 2]}), (3, {"pads": [2] * 4, "dilations": [2, 2]}),
        (3, {"pads": [0] * 4, "dilations": [2, 1], "strides": [2, 2]}), (2, {"strides": [2, 2]}),
        (3, {"auto_pad": "SAME_UPPER"}), (4, {"auto_pad": "SAME_LOWER"}), (3, {"auto_pad": "VALID"}),
        (4, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}), (3, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        (3, {"auto_pad": "VALID", "dilations": [1, 2]}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [2, 3, (2, 4)])
def test_every_padding_border_included(kernel, attributes, scale, tmp_path):
    nodes = [
        node("Conv", "x w b", "c", **attributes),
        node("Relu", "c", "y"),
        node("ReduceSum", "y a", "z", keepdims=1),
    ]
    constants = {"w": normal(4, 3, kernel, kernel), "b": normal(4), "a": ints(1)}
    plan = same(graph(tmp_path / "m.onnx", nodes, constants, (2, 3, 9, 12)), (2, 3, 9, 12), scale, mode="absorb")
    assert absorbed(plan) == {"w": "absorb"} and not plan.warnings


@pytest.mark.parametrize(("form", "opset"), [("attributes", 10), ("all axes", 18), ("some axes", 18), ("wrap", 19)])
def test_a_pad_node_in_front_grows_with_the_image(form, opset, tmp_path):
    constants = {"w": normal(4, 3, 4, 4)}
    if form == "attributes":
        pad = node("Pad", "x", "p", pads=[0, 0, 1, 2, 0, 0, 1, 0])
    elif form == "some axes":
        pad, constants["n"], constants["a"] = node("Pad", "x n - a", "p"), ints(2, 1, 0, 1), ints(-1, 2)
    else:
        pad = node("Pad", "x n", "p", **({"mode": "wrap"} if form == "wrap" else {}))
        constants["n"] = ints(0, 0, 1, 2, 0, 0, 1, 0)
    nodes = [pad, node("Conv", "p w", "y", strides=[2, 2]), *HEAD]
    plan = same(graph(tmp_path / "m.onnx", nodes, constants, opset=opset), (1, 3, 8, 8))
    assert absorbed(plan) == {"w": "absorb"}


def test_only_the_node_that_reads_the_image_changes(tmp_path):
    """Dilation, groups, batch norm, a residual, squeeze-excite and poolings lie behind it."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.SiLU())
            self.pool = nn.MaxPool2d(3, 2, 1)
            self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
            self.norm, self.gate = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
            self.head = nn.Linear(8 * 4, 5)

        def forward(self, x):
            x = self.pool(self.stem((x - 0.4) / torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1)))
            y = self.norm(self.wide(x))
            y = x + y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
            return self.head(nn.functional.avg_pool2d(y, 2).flatten(1))

    torch.manual_seed(0)
    net = Net()
    net(torch.randn(8, 3, 16, 16))
    source = exported(net, torch.zeros(1, 3, 16, 16), tmp_path / "m.onnx")
    plan = same(source, (1, 3, 16, 16), (2, 3))
    assert list(absorbed(plan).values()) == ["absorb"] and not plan.modules
    [change] = plan.changed
    assert change.shape[2:] == (5, 5) and change.new_shape[2:] == (10, 15)


@pytest.mark.parametrize("scale", [2, 1.5, (2, 3)])
def test_a_vision_transformer_absorbs_in_its_patches(scale, tmp_path):
    torch.manual_seed(0)
    source = exported(ViT(), torch.zeros(1, 3, 16, 16), tmp_path / "m.onnx")
    if scale != 1.5:
        plan = same(source, (1, 3, 16, 16), scale)
    else:
        target, plan = converted(source, scale)
        assert said(target, larger((1, 3, 16, 16), scale)).shape == (1, 5)
    assert list(absorbed(plan).values()) == ["absorb"] and plan.changed[0].kind == "patch"


def test_a_perceptron_reads_pixels_in_any_order(tmp_path):
    """Channels first behind a Flatten, channels last behind a Transpose, and a product from the left."""
    first = [node("Flatten", "x", "f"), node("Gemm", "f m b", "z", transB=1)]
    last = [node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("Reshape", "t s", "f"), node("MatMul", "f n", "z")]
    left = [node("Reshape", "x u", "f"), node("MatMul", "l f", "z")]
    constants = {"m": normal(5, 144), "b": normal(5), "n": normal(144, 5), "l": normal(5, 48), "s": ints(1, 144)}
    for number, (nodes, more) in enumerate([(first, {}), (last, {}), (left, {"u": ints(3, 48, 1)})]):
        read = {name for each in nodes for name in each.input}
        given = {name: value for name, value in (constants | more).items() if name in read}
        source = graph(tmp_path / f"{number}.onnx", nodes, given, (1, 3, 6, 8))
        assert list(absorbed(same(source, (1, 3, 6, 8), (2, 3))).values()) == ["absorb"]


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims, tmp_path):
    torch.manual_seed(0)
    conv, pool = getattr(nn, f"Conv{dims}d"), getattr(nn, f"AvgPool{dims}d")
    net = nn.Sequential(
        conv(2, 4, 3, 2, 1), nn.ReLU(), conv(4, 4, 3, padding=1), pool(2), nn.Flatten(), nn.LazyLinear(3)
    )
    shape = (1, 2, *(8,) * dims)
    net(torch.zeros(shape))
    plan = same(exported(net, torch.zeros(shape), tmp_path / "m.onnx"), shape, 3 if dims == 1 else (1, 2, 3))
    assert list(absorbed(plan).values()) == ["absorb"]


COMMUTING = {
    "constants for each channel": ([node("Sub", "x m", "a"), node("Div", "a s", "b")], {"m": normal(3, 1, 1),
                                   "s": np.float32(2)}),
    "batch norm": ([node("BatchNormalization", "x g m m v", "b")], {"g": normal(3), "m": normal(3),
                                                                    "v": np.abs(normal(3)) + 1}),
    "casts": ([node("Cast", "x", "a", to=11), node("Cast", "a", "b", to=1)], {}),
    "negated, from the left": ([node("Neg", "x", "a"), node("Sub", "s a", "b")], {"s": np.float32(1)}),
    "channels apart and together": (
        [node("Gather", "x i", "p", axis=1), node("Slice", "x one three ax", "q"), node("Mul", "p s", "r"),
         node("Concat", "q r", "b", axis=1)],
        {"i": ints(0), "one": ints(1), "three": ints(3), "ax": ints(1), "s": np.float32(3)},
    ),
    "split and its other order": (
        [node("Split", "x", "p q r", axis=1, num_outputs=3), node("Concat", "r q p", "b", axis=1)], {}),
    "another shape and back": (
        [node("Unsqueeze", "x o", "a"), node("Transpose", "a", "c", perm=[1, 0, 2, 3, 4]),
         node("Squeeze", "c o", "d"), node("Reshape", "d f", "e"), node("Reshape", "e g", "b")],
        {"o": ints(0), "f": ints(1, 3, 64), "g": ints(1, 3, 8, 8)},
    ),
    "height and width exchanged": ([node("Transpose", "x", "b", perm=[0, 1, 3, 2])], {}),
    "mirrored": ([node("Slice", "x m1 low ax m1", "b")], {"m1": ints(-1), "low": ints(-(2**62)), "ax": ints(3)}),
    "the batch asked of its shape": (
        [node("Shape", "x", "n"), node("Gather", "n o", "k"), node("Concat", "k three rest", "s", axis=0),
         node("Reshape", "x s", "b0"), node("Reshape", "b0 back", "b")],
        {"o": ints(0), "three": ints(3), "rest": ints(-1), "back": ints(1, 3, 8, 8)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", COMMUTING)
def test_it_absorbs_behind_nodes_that_commute(what, tmp_path):
    nodes, constants = COMMUTING[what]
    source = graph(tmp_path / "m.onnx", [*nodes, node("Conv", "b w", "y", pads=[1] * 4), *HEAD], W | constants)
    assert absorbed(same(source, (1, 3, 8, 8))) == {"w": "absorb"}


OTHERS = {
    "relu": ([node("Relu", "x", "b")], {}),
    "square": ([node("Mul", "x x", "b")], {}),
    "a divisor": ([node("Div", "s x", "b")], {"s": np.float32(1)}),
    "a mean image": ([node("Sub", "x m", "b")], {"m": normal(3, 8, 8)}),
    "rounded": ([node("Cast", "x", "a", to=7), node("Cast", "a", "b", to=1)], {}),
    "a crop": ([node("Slice", "x one last ax", "b")], {"one": ints(0), "last": ints(6), "ax": ints(2)}),
    "reflected": ([node("Pad", "x p", "b", mode="reflect")], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
    "space to depth": ([node("SpaceToDepth", "x", "a", blocksize=2), node("Slice", "a zero three ax", "b")],
                       {"zero": ints(0), "three": ints(3), "ax": ints(1)}),
    "a pooling": ([node("MaxPool", "x", "b", kernel_shape=[2, 2], strides=[2, 2])], {}),
    "a resizing": ([node("Resize", "x - - s", "b", mode="linear")], {"s": ints(1, 3, 12, 12)}),
    "instance norm": ([node("InstanceNormalization", "x g m", "b")], {"g": normal(3), "m": normal(3)}),
    "a second reader": ([node("GlobalMaxPool", "x", "m"), node("Add", "x m", "b")], {}),
    "the size asked of its shape": (
        [node("Shape", "x", "n"), node("Slice", "n two four", "k"), node("ReduceMax", "k", "m", keepdims=0),
         node("Cast", "m", "f", to=1), node("Div", "x f", "b")], {"two": ints(2), "four": ints(4)}),
    "a computed weight": ([node("Identity", "x", "b")], {"v": normal(4, 3, 3, 3), "two": np.float32(2)}),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("opset", [13, 18])
def test_what_does_not_commute_reads_the_image_resampled(what, opset, tmp_path):
    """The weights stay, and the plan names the resampling: N(Dx) by construction."""
    nodes, constants = OTHERS[what]
    if what == "a computed weight":
        nodes = [*nodes, node("Mul", "v two", "w")]
    weight = {} if what == "a computed weight" else W
    all_nodes = [*nodes, node("Conv", "b w", "y", pads=[1] * 4), *HEAD]
    source = graph(tmp_path / "m.onnx", all_nodes, weight | constants, opset=opset)
    plan = same(source, (1, 3, 8, 8))
    assert not plan.changed and [m.kind for m in plan.modules] == ["resample"]
    assert plan.modules[0].name == "" and plan.modules[0].method == "area"
    assert [g.kernel for g in plan.modules[0].new_geometry] == [16, 16]
    [note] = plan.warnings
    assert "the weights stay, and the image is resampled to the trained size in front of the model" in note


def test_two_readers_absorb_together_or_not_at_all(tmp_path):
    both = [node("Conv", "x w", "a", pads=[1] * 4), node("Conv", "x v", "b", pads=[2] * 4, strides=[2, 2]),
            node("GlobalMaxPool", "a", "c"), node("GlobalMaxPool", "b", "d"), node("Add", "c d", "z")]  # fmt: skip
    constants = W | {"v": normal(4, 3, 5, 5)}
    assert set(absorbed(same(graph(tmp_path / "m.onnx", both, constants), (1, 3, 8, 8)))) == {"w", "v"}
    third = [*both[:-1], node("GlobalAveragePool", "x", "e"), node("Concat", "c d e", "z", axis=1)]
    plan = same(graph(tmp_path / "n.onnx", third, constants), (1, 3, 8, 8))
    assert not plan.changed and plan.modules[0].kind == "resample"
    tied = [node("Conv", "x w", "a", pads=[1] * 4), node("Slice", "a zero three ax", "b"),
            node("Conv", "b w", "y", pads=[1] * 4), *HEAD]  # fmt: skip
    constants = W | {"zero": ints(0), "three": ints(3), "ax": ints(1)}
    plan = same(graph(tmp_path / "t.onnx", tied, constants), (1, 3, 8, 8))
    assert not plan.changed and "one weight reads the image and something else" in plan.warnings[0]
    plan = same(graph(tmp_path / "l.onnx", both, W | {"v": normal(4, 3, 5, 5)}), (1, 3, 8, 8), exclude=["v"])
    assert not plan.changed and "is not selected" in plan.warnings[0]


def test_the_mode_that_was_asked_for_wins(tmp_path):
    """A classifier may supersample, a network that gives an image back may absorb; patterns name single layers."""
    nodes = [node("Conv", "x w", "a", pads=[1] * 4), node("Conv", "a v", "y", pads=[1] * 4)]
    constants = W | {"v": normal(2, 4, 3, 3)}
    image, pooled = (graph(tmp_path / f"{i}.onnx", n, constants) for i, n in enumerate([nodes, [*nodes, *HEAD]]))

    def modes(path, **options):
        return absorbed(converted(path, **options)[1])

    both, reader = {"w": "supersample", "v": "supersample"}, {"w": "absorb"}
    assert modes(image) == modes(pooled, mode="supersample") == both
    assert modes(pooled) == modes(image, mode="absorb") == reader
    assert modes(pooled, hints=rk.Hints(mode={"*": "supersample"})) == both
    assert modes(image, hints=rk.Hints(mode={"*": "absorb"})) == reader
    assert modes(pooled, hints=rk.Hints(mode={"v": "absorb"})) == {"w": "supersample", "v": "absorb"}
    with pytest.raises(rk.RekernelError, match="mode magic is not one of"):
        converted(pooled, hints=rk.Hints(mode={"*": "magic"}))


def test_other_reading_filters_put_their_taps_between_those_of_the_kernel(tmp_path):
    """Beside torch's convolution with the kernel that the operator's matrices make of the old one."""
    source = graph(tmp_path / "m.onnx", [node("Conv", "x w", "c"), node("Slice", "c a b i", "y")],
                   W | {"a": ints(4, 4), "b": ints(-4, -4), "i": ints(2, 3)}, (1, 3, 16, 16))  # fmt: skip
    x = larger((1, 3, 16, 16), 2)
    for method in ("linear", "cubic", "lanczos3", "optimal"):
        target, plan = converted(source, mode="absorb", reading_filter=method)
        [change] = plan.changed
        [vertical, horizontal] = change.operators
        assert {vertical.method, horizontal.method} == {method} and change.mode == "absorb"
        taps = rk.kernel_operator(3, 2, method, taps=vertical.new, phase=vertical.phase)
        weight = np.einsum("oihw,Hh,Ww->oiHW", W["w"].astype(float), taps, taps)
        pads = change.new_geometry[0].padding[0]
        wide = torch.nn.functional.conv2d(
            torch.from_numpy(x.astype(float)), torch.from_numpy(weight), stride=2, padding=pads
        )
        assert np.abs(said(target, x) - wide.numpy()[..., 4:-4, 4:-4]).max() < 1e-5


def test_no_pooling_or_shape_is_touched_behind_it(tmp_path):
    source = graph(tmp_path / "m.onnx", [node("Conv", "x w", "y", pads=[1] * 4), node("Flatten", "y", "f"),
                                         node("Gemm", "f m", "z")], W | {"m": normal(256, 5)})  # fmt: skip
    target, _ = converted(source)
    old, new = onnx.load(source).graph, onnx.load(target).graph
    assert list(new.node[1:]) == list(old.node[1:])
    assert [d.dim_value for d in new.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]
    assert [d.dim_value for d in new.output[0].type.tensor_type.shape.dim] == [1, 5]


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("name", ["ResNet", "ConvNext", "MobileNetV2", "RegNet", "ViT", "Swin"])
def test_classifiers_of_transformers(name, dynamo, tmp_path):
    """MobileNetV2 pads as TensorFlow does, Swin attends in windows: neither matters behind the node that absorbs."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "MobileNetV2": {"depth_multiplier": 0.1, "image_size": 64},
        "RegNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
        "ViT": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "image_size": 64},
        "Swin": {"image_size": 64, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    }  # fmt: skip

    class Logits(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x).logits

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes[name])
    net = Logits(getattr(transformers, f"{name}ForImageClassification")(config))
    source = exported(net, torch.zeros(1, 3, 64, 64), tmp_path / "m.onnx", dynamo=dynamo)
    assert list(absorbed(same(source, (1, 3, 64, 64))).values()) == ["absorb"]
