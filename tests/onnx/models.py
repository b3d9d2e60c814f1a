"""Small ONNX models, made by hand, that tests of files and addresses convert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(seed: int = 0, *, channels: int = 8, size: object = 8):
    """A convolution, its bias, a reshape to tokens and back by constants, and a second convolution that strides."""
    rng = np.random.default_rng(seed)
    side = size if isinstance(size, int) else 8
    constants = {
        "first.weight": rng.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "first.bias": rng.standard_normal(channels).astype(np.float32),
        "second.weight": rng.standard_normal((4, channels, 3, 3)).astype(np.float32),
        "tokens": np.array([1, channels, side * side], np.int64),
        "image": np.array([1, channels, side, side], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Reshape", ["a", "tokens"], ["b"], "flat"),
        helper.make_node("Reshape", ["b", "image"], ["c"], "back"),
        helper.make_node("Conv", ["c", "second.weight"], ["y"], "second", pads=[1] * 4, strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "height", "width"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(made, {"author": "[red]somebody"})
    return made


def saved(path: Path, made=None, *, beside: str = "", least: int = 1024) -> Path:
    """The model in a file; tensors of at least so many bytes in a file `beside` it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = model() if made is None else made
    if beside:
        onnx.save(made, path, save_as_external_data=True, location=beside, size_threshold=least)
    else:
        onnx.save(made, path)
    return path


def initializers(path: Path) -> dict[str, np.ndarray]:
    """Every initialiser's values, external data read."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
