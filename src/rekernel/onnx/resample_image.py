"""Resample the image in front of a graph to the size for which the model was trained; the graph itself stays.

Scope: choosing the node that resamples, and inserting it. Not here: when no node can absorb the scale (see
`onnx.reading`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..errors import RekernelError
from ..plan.changes import ModuleChange
from ..planning.layers import Cells
from ..planning.rules import resampled_image
from ..resampling.geometry import is_whole
from ..resampling.methods import KEYS_A
from .axes import new_shape, old_shape, scale_of
from .graph_pass import GraphPass

_ANTIALIAS = 18  # opset in which Resize got a filter against aliasing
_HALF_PIXEL = 13  # opset in which a Resize with half-pixel centres needs no other inputs than its sizes


def resampled(at: GraphPass, ready: ModuleChange | None = None) -> GraphPass:
    """Decide that the image is resampled in front of the network.

    Parameters
    ----------
    at : GraphPass
        A pass that has just begun.
    ready : ModuleChange, optional
        The change of a plan that is carried out.

    Raises
    ------
    RekernelError
        If no operator of the model's opset resamples so, or if the plan is for an image of another size.
    """
    axes = next(iter(at.axes.values()))[2:]
    scales = tuple(map(scale_of, axes))
    cells = [Cells(*sizes) for sizes in zip(old_shape(axes), new_shape(axes), strict=True)]
    reason = at.reading.unable
    front = resampled_image(reason, at.asked.base, cells)
    if ready is None:
        front = replace(front, method=_method(front.method, scales, at.opset()))
        at.say(f"{reason}; the weights stay, and the image is resampled to the trained size in front of the model")
    elif (ready.geometry, ready.new_geometry) != (front.geometry, front.new_geometry):
        raise RekernelError("the plan resamples an image of another size than this model reads; plan again")
    else:
        front = ready
    if not _fits(front.method, scales, at.opset()):
        where = f"{reason}; it" if reason else "the image"
        raise RekernelError(
            f"{where} would have to be resampled in front of the model, for which opset {at.opset()} has no operator; "
            f"export the model with opset {_ANTIALIAS} or later"
        )
    at.front = front
    at.modules.append(front)
    return at


def _method(asked: str, scales: Sequence[float], opset: int) -> str:
    """The method that an operator of ONNX has for what was asked.

    Examples
    --------
    >>> _method("area", (2.0, 2.0), 13), _method("area", (1.5, 1.5), 18), _method("lanczos3", (0.5, 0.5), 18)
    ('area', 'linear', 'cubic')
    """
    if _by_area(scales) and (asked == "area" or opset < _ANTIALIAS):
        return "area"
    if len(scales) != 2:  # onnxruntime has 'cubic' for images alone
        return "linear"
    if asked == "area":
        return "cubic" if min(scales) < 1 else "linear"
    return "linear" if asked == "linear" else "cubic"


def _by_area(scales: Sequence[float]) -> bool:
    """Whether an average pooling reduces the image."""
    return all(is_whole(scale) and scale >= 1 for scale in scales)


def _fits(method: str, scales: Sequence[float], opset: int) -> bool:
    """Whether the operators of an opset resample by a method."""
    if method == "area":
        return _by_area(scales)
    return opset >= (_ANTIALIAS if max(scales) > 1 else _HALF_PIXEL)


def put_in_front(done: GraphPass, proto: Any) -> None:
    """Insert the nodes that resample the images. Every node that reads an image reads the resampled one."""
    assert done.front is not None
    taken = {tensor.name for tensor in proto.graph.initializer} | set(done.model.shapes)
    renamed, nodes = {}, []
    for name in done.axes:
        new = f"{name}_resampled"
        while new in taken:
            new += "_"
        renamed[name] = new
        nodes += _nodes(done, proto, name, new)
    _rename(proto.graph.node, renamed)
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)


def _nodes(done: GraphPass, proto: Any, name: str, out: str) -> list[Any]:
    """The nodes that make `out` from an input of the model: a resampling, in float32 unless the image is in float16."""
    kind, method = done.model.kinds[name], done.front.method if done.front else ""
    scales = tuple(map(scale_of, done.axes[name][2:]))
    own = kind in (TensorProto.FLOAT, TensorProto.FLOAT16)
    given, made = (name, out) if own else (f"{out}_from", f"{out}_float")
    nodes = [] if own else [helper.make_node("Cast", [name], [given], given, to=TensorProto.FLOAT)]
    if method == "area":
        window = [round(scale) for scale in scales]
        nodes.append(helper.make_node("AveragePool", [given], [made], made, kernel_shape=window, strides=window))
    else:
        nodes.append(_resize(done, proto, name, given, made, method))
    if own:
        return nodes
    limits = _limits(kind)
    if limits is not None:  # a cast to whole numbers cuts what is behind the point
        rounded, low, high = f"{out}_rounded", f"{out}_least", f"{out}_most"
        bounds = zip((low, high), limits, strict=True)
        proto.graph.initializer.extend(numpy_helper.from_array(np.array(n, np.float32), to) for to, n in bounds)
        nodes.append(helper.make_node("Round", [made], [rounded], rounded))
        nodes.append(helper.make_node("Clip", [rounded, low, high], [f"{out}_clipped"], f"{out}_clipped"))
        made = f"{out}_clipped"
    return [*nodes, helper.make_node("Cast", [made], [out], out, to=kind)]


def _limits(kind: int) -> tuple[int, int] | None:
    """The least and the largest whole number of a data type; None if it has floats."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if dtype.kind not in "iu":
        return None
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _resize(done: GraphPass, proto: Any, image: str, given: str, out: str, method: str) -> Any:
    """A Resize node to the trained size. Where a size is open, it resizes that axis by the scale."""
    axes = done.axes[image]
    scales = [scale_of(axis) for axis in axes]
    before, after = old_shape(axes), new_shape(axes)
    dims = next(value for value in proto.graph.input if value.name == image).type.tensor_type.shape.dim
    more: dict[str, Any] = {}
    if done.opset() >= _ANTIALIAS:
        more = {"axes": list(range(2, len(axes)))}
        if max(scales) > 1:  # at the border, the filter takes its weight from the pixels that there are
            more |= {"antialias": 1, "exclude_outside": 1}
    first = 2 if more else 0
    if all(dim.HasField("dim_value") for dim in dims[first:]):
        key, sizes = f"{out}_sizes", np.array(before[first:], np.int64)
        inputs = [given, "", "", key]
    else:  # a factor that is rounded down could cost a pixel
        known = (dim.HasField("dim_value") for dim in dims)
        each = zip(before, after, scales, known, strict=True)
        factors = [old / new if told else 1 / scale for old, new, scale, told in each]
        key, sizes = f"{out}_scales", np.array([_at_least(factor) for factor in factors[first:]], np.float32)
        inputs = [given, "", key]
    proto.graph.initializer.append(numpy_helper.from_array(sizes, key))
    return helper.make_node(
        "Resize", inputs, [out], out, mode=method, coordinate_transformation_mode="half_pixel", cubic_coeff_a=KEYS_A,
        **more,
    )  # fmt: skip


def _at_least(factor: float) -> np.float32:
    near = np.float32(factor)
    return near if float(near) >= factor else np.nextafter(near, np.float32(np.inf))


def _rename(nodes: Any, renamed: dict[str, str]) -> None:
    """Give the inputs of all nodes new names, inside of If and Loop nodes, too."""
    for node in nodes:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(graph.node, renamed)
                for out in graph.output:
                    out.name = renamed.get(out.name, out.name)
