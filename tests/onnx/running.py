"""Make small ONNX graphs, convert and run them, and reduce images by the area: the parts of the tests of identities."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference

import rekernel as rk


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def node(op: str, inputs: str, out: str, **attributes: Any) -> Any:
    """A node of the name of its output, or of the first of several; '-' stands for an input that is left out."""
    outs = out.split()
    return helper.make_node(op, ["" if i == "-" else i for i in inputs.split()], outs, outs[0], **attributes)


def graph(
    path: Path, nodes: Any, constants: dict[str, Any], shape: Any = (1, 3, 8, 8), *, opset: int = 18,
    kind: int = TensorProto.FLOAT, out_kind: int = TensorProto.FLOAT,
) -> Path:  # fmt: skip
    """A file with these nodes, which read x; the last one gives the output."""
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], out_kind, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(shape_inference.infer_shapes(model, data_prop=True), path)
    return path


def exported(model: Any, x: Any, path: Path, **options: Any) -> Path:
    """The file that torch's exporter writes for a module: the older one, or with `dynamo` the newer one."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (x,), path, verbose=False, input_names=["x"], **{"dynamo": False, **options})
    return path


def converted(source: Path, scale: Any = 2, **options: Any) -> tuple[Path, rk.Plan]:
    """The rescaled model, checked by ONNX, and its plan."""
    target = source.with_name(f"{source.stem}-new.onnx")
    report = rk.convert(source, target, scale=scale, force=True, **options)
    onnx.checker.check_model(onnx.load(target), full_check=True)
    return target, report.plans[""]


def said(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.asarray(x)})[0]


def reduced(x: Any, scale: Any) -> Any:
    """The averages of whole areas of the image."""
    x = np.asarray(x)
    scales = scale if isinstance(scale, tuple) else (scale,) * (x.ndim - 2)
    for axis, s in enumerate(scales, 2):
        shape = (*x.shape[:axis], x.shape[axis] // s, s, *x.shape[axis + 1 :])
        x = x.reshape(shape).mean(axis + 1, dtype=np.float64)
    return x.astype(np.float32)


def larger(shape: Any, scale: Any, seed: int = 1) -> Any:
    """An image of noise of `scale` times the size of `shape`."""
    scales = scale if isinstance(scale, tuple) else (scale,) * (len(shape) - 2)
    return normal(*shape[:2], *(round(n * s) for n, s in zip(shape[2:], scales, strict=True)), seed=seed)
