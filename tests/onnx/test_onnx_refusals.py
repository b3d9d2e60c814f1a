"""ONNX graphs that cannot be rescaled faithfully: each is refused, by the name of its node, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from rekernel_cli.main import main

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - after it is known to be there

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def saved(tmp_path, nodes, constants, shape=(1, 3, 8, 8), out=None, opset=18, name="m.onnx", kind=TensorProto.FLOAT):
    last = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT if out is None else out, None)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, tmp_path / name)
    return tmp_path / name


def node(op, inputs, out, name="", **attributes):
    return helper.make_node(op, inputs.split(), [out], name=name, **attributes)


def conv(given, weight, out, pads=1, **more):
    return node("Conv", f"{given} {weight}", out, name=f"make_{out}", pads=[pads] * 4, **more)


def ints(*values):
    return np.array(values, np.int64)


def run(source, *options, target=None):
    target = target or source.with_name("out.onnx")
    return CliRunner().invoke(main, ["convert", str(source), str(target), "--scale", "2", *options]), target


def refused(source, *words, options=()):
    result, target = run(source, *options)
    assert result.exit_code == 1, result.output
    text = " ".join(result.stderr.split())
    assert all(word in text for word in words), text
    assert not target.exists() and "Traceback" not in result.stderr


SUPERSAMPLE = ("--mode", "supersample")
W = {"w": normal(4, 3, 3, 3)}
START = [conv("x", "w", "y")]
GRAPHS = {
    "windows": (
        [*START, node("Reshape", "y s", "z", "windows")], W | {"s": ints(1, 4, 2, 4, 2, 4)},
        ("windows", "Reshape", "pieces"),
    ),
    "crop": (
        [*START, node("Slice", "y a b c", "z", "crop")], W | {"a": ints(0), "b": ints(4), "c": ints(2)},
        ("crop", "cuts a piece"),
    ),
    "split": ([*START, helper.make_node("Split", ["y"], ["p", "z"], "halves", axis=3, num_outputs=2)], W, ("halves",)),
    "pixel": (
        [*START, node("Gather", "y i", "z", "pixel", axis=2)], W | {"i": ints(0)}, ("pixel", "selects single pixels"),
    ),
    "sum": ([*START, node("ReduceSum", "y a", "z", "total")], W | {"a": ints(2, 3)}, ("total", "ReduceSum")),
    "custom": (
        [*START, helper.make_node("Strange", ["y"], ["z"], "odd", domain="com.example"), node("Relu", "z", "u")], W,
        ("odd", "Strange"),
    ),
    "computed weight": (
        [node("Mul", "w two", "v", "scaled"), conv("x", "v", "y")], W | {"two": np.float32(2)}, ("make_y", "computed"),
    ),
    "norm": (
        [*START, node("LayerNormalization", "y g", "z", "norm", axis=1)], W | {"g": normal(4, 8, 8)},
        ("norm", "every pixel"),
    ),
    "two sizes": (
        [*START, node("MaxPool", "y", "p", "half", kernel_shape=[2, 2], strides=[2, 2]),
         node("Flatten", "y", "f1"), node("Flatten", "p", "f2"), node("MatMul", "f1 m", "a"),
         node("MatMul", "f2 n", "b"),
         node("Resize", "y r q sizes", "c", "fixed"), node("Conv", "c w2", "d", "last", pads=[1] * 4),
         node("Conv", "y w2", "e", "other", strides=[2, 2], pads=[1] * 4), node("Add", "d e", "z", "sum")],
        W | {"m": normal(256, 4), "n": normal(64, 4), "w2": normal(4, 4, 3, 3), "sizes": ints(1, 4, 4, 4)},
        ("w2", "different sizes"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", GRAPHS)
def test_what_cannot_be_rescaled_is_named(what, tmp_path):
    nodes, constants, words = GRAPHS[what]
    for each in nodes:
        for i, name in enumerate(each.input):
            if name in ("r", "q"):
                each.input[i] = ""
    source = saved(tmp_path, nodes, constants)
    if what == "custom":
        model = onnx.load(source)
        model.opset_import.append(helper.make_opsetid("com.example", 1))
        onnx.save(model, source)
    refused(source, *words, "mode absorb", options=SUPERSAMPLE)
    result, _ = run(source, "--mode", "absorb")
    assert result.exit_code == 0, result.stderr


def test_quantised_weights_are_refused_by_name(tmp_path):
    nodes = [node("DequantizeLinear", "w s", "v", "dequantise"), conv("x", "v", "y")]
    source = saved(tmp_path, nodes, {"w": np.ones((4, 3, 3, 3), np.int8), "s": np.float32(0.1)})
    refused(source, "make_y", "computed", options=SUPERSAMPLE)


def test_channels_last_is_refused(tmp_path):
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), conv("t", "w", "y")]
    refused(saved(tmp_path, nodes, W, shape=(1, 8, 8, 3)), "x", "channels last")


def test_a_network_without_an_image_is_refused(tmp_path):
    refused(saved(tmp_path, [node("MatMul", "x m", "y")], {"m": normal(4, 4)}, shape=(1, 4)), "image")


def test_a_matrix_that_reads_the_grid_cannot_be_left_out(tmp_path):
    nodes = [*START, node("Flatten", "y", "f"), node("Gemm", "f m", "z", "head")]
    source = saved(tmp_path, nodes, W | {"m": normal(256, 5)})
    refused(source, "head", "m", "cannot be excluded", options=(*SUPERSAMPLE, "--exclude", "m"))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--preset", "inner"), "preset"), (("--stride", "w=2"), "--stride"), (("--dtype", "fp16"), "dtype"),
        (("--max-shard-size", "5GB"), "--max-shard-size"), (("--component", "unet"), "--component"),
        (("--resume",), "resume"), (("--include", "nothing*"), "nothing*"), (("--allow-cast",), "allow-cast"),
    ],
)  # fmt: skip
def test_options_for_checkpoints_are_refused_rather_than_ignored(options, word, tmp_path):
    refused(saved(tmp_path, START, W), word, options=options)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x09" * 40, b"\x80\x02}q\x00."])
def test_other_files_are_refused(data, tmp_path):
    source = tmp_path / "m.onnx"
    source.write_bytes(data)
    refused(source, "m.onnx")


def test_a_missing_file_is_one_line(tmp_path):
    refused(tmp_path / "none.onnx", "none.onnx", "no such file")


def test_names_from_the_file_are_escaped(tmp_path):
    nodes = [*START, helper.make_node("ReduceSum", ["y", "a"], ["z"], "bad\x1b[31m\nname")]
    source = saved(tmp_path, nodes, W | {"a": ints(2)})
    result, _ = run(source)
    assert result.exit_code == 1 and "\x1b" not in result.stderr and "bad" in result.stderr


def test_targets_are_guarded(tmp_path):
    source = saved(tmp_path, START, W)
    target = tmp_path / "out.onnx"
    target.write_bytes(b"mine")
    assert run(source)[0].exit_code == 1 and target.read_bytes() == b"mine"
    assert run(source, "--force")[0].exit_code == 0 and target.read_bytes() != b"mine"
    again, _ = run(target, target=tmp_path / "again.onnx")
    assert again.exit_code == 1 and "rescaled already" in again.stderr
    onto, _ = run(source, "--force", target=source)
    assert onto.exit_code == 1 and onnx.load(source).graph.node
    wrong, _ = run(source, target=tmp_path / "out.safetensors")
    assert wrong.exit_code == 1 and "*.onnx" in wrong.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname"])
def test_data_outside_the_folder_is_not_read(location, tmp_path):
    (tmp_path / "secret.bin").write_bytes(normal(4, 3, 3, 3).tobytes())
    (tmp_path / "in").mkdir()
    source = saved(tmp_path / "in", START, W)
    model = onnx.load(source)
    [tensor] = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    source.write_bytes(model.SerializeToString())
    refused(source, "m.onnx")


def test_a_constant_with_a_value_for_every_pixel_is_interpolated(tmp_path):
    place = np.broadcast_to(np.linspace(0, 1, 8, dtype=np.float32), (1, 4, 8, 8)).copy()
    source = saved(tmp_path, [*START, node("Add", "y p", "z")], W | {"p": place})
    result, target = run(source, "--method", "linear")
    assert result.exit_code == 0, result.stderr
    [new] = [numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer if t.name == "p"]
    expected = np.interp((np.arange(16) + 0.5) / 2 - 0.5, np.arange(8), np.linspace(0, 1, 8))
    assert new.shape == (1, 4, 16, 16) and np.allclose(new[0, 0, 3], expected, atol=1e-6)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_that_the_runtime_chose_is_written_out(auto, stride, tmp_path):
    """The same convolution with its padding spelled out converts to the same function."""
    size, kernel = 8, 3
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0) if auto != "VALID" else 0
    small, large = total // 2, total - total // 2
    first, last = (large, small) if auto == "SAME_LOWER" else (small, large)
    by_runtime = saved(tmp_path, [node("Conv", "x w", "y", auto_pad=auto, strides=[stride] * 2)], W, name="auto.onnx")
    spelled = [node("Conv", "x w", "y", pads=[first, first, last, last], strides=[stride] * 2)]
    by_hand = saved(tmp_path, spelled, W, name="hand.onnx")
    answers = []
    for source in (by_runtime, by_hand):
        result, target = run(source, target=source.with_name(f"{source.stem}-2x.onnx"))
        assert result.exit_code == 0, result.stderr
        session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"x": np.linspace(-1, 1, 3 * 256, dtype=np.float32).reshape(1, 3, 16, 16)})[0])
    assert np.array_equal(*answers) and answers[0].shape[-1] == 2 * ((size + total - kernel) // stride + 1)


def test_sizes_that_a_resize_has_fixed_become_the_new_ones(tmp_path):
    nodes = [*START, helper.make_node("Resize", ["y", "", "", "sizes"], ["z"], "fixed", mode="nearest")]
    source = saved(tmp_path, nodes, W | {"sizes": ints(1, 4, 16, 12)})
    result, target = run(source)
    assert result.exit_code == 0, result.stderr
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.zeros((1, 3, 16, 16), np.float32)})[0].shape == (1, 4, 32, 24)


def test_a_scale_of_1_says_so(tmp_path):
    saved(tmp_path, [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], {"w": normal(4, 3, 3, 3)})
    arguments = ["convert", str(tmp_path / "m.onnx"), str(tmp_path / "out.onnx"), "--scale", "1"]
    said = CliRunner().invoke(main, arguments)
    assert said.exit_code == 1 and "the plan changes nothing. Note: the scale is 1, so nothing changes" in said.stderr
