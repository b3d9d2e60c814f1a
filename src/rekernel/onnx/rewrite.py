"""Carry out the changes of a pass on an ONNX graph: resample weights, set attributes, replace constants and shapes.

Afterwards, shape inference runs at the new size: every tensor must have the shape that the pass gave it.
Scope: protobuf messages. Not here: deciding what changes (see `onnx.walk`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..checkpoint.dtypes import refuse_overflow
from ..errors import RekernelError
from ..escape import shown, shown_path
from ..plan.recipe import KEY, Recipe
from .axes import grows, new_shape
from .graph import inferred, outer_names
from .graph_pass import GraphPass
from .resample_image import put_in_front


def rewritten(done: GraphPass, recipe: Recipe) -> Any:
    """The new model. The model of the pass is not changed.

    Raises
    ------
    RekernelError
        If shape inference at the new size finds another shape than planned; the message names the node.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(done.model.proto)
    _weights(done, proto)
    _nodes(done, proto)
    _averages(done, proto)
    _neighbours(done, proto)
    if done.front is not None:
        put_in_front(done, proto)
    _shapes(done, proto)
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, recipe.to_json()
    return proto


def _weights(done: GraphPass, proto: Any) -> None:
    """Resample every constant that changes, in its initialiser or its Constant node."""
    new = {}
    for name, change in done.changes.items():
        if not change.operators:  # it is kept, or its taps are spread by an attribute
            continue
        try:
            old = done.model.array(name)
            values = change.apply(old)
            refuse_overflow(values, partial(change.apply, old.astype(np.float64)))
            if not np.isfinite(values).all():
                done.broken.append(name)
            new[name] = numpy_helper.from_array(values, name)
        except RekernelError as error:
            raise RekernelError(f"{shown(name)}: {error}") from None
    for tensor in proto.graph.initializer:
        if tensor.name in new:
            tensor.CopyFrom(new[tensor.name])
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.output[0] in new:
            next(a for a in node.attribute if a.name == "value").t.CopyFrom(new[node.output[0]])
    for given in proto.graph.input:  # in old models, initialisers are inputs, too
        if given.name in new:
            for dim, n in zip(given.type.tensor_type.shape.dim, new[given.name].dims, strict=True):
                dim.dim_value = n


def _nodes(done: GraphPass, proto: Any) -> None:
    for index, attributes in done.edits.attributes.items():
        node = proto.graph.node[index]
        rest = [a for a in node.attribute if a.name not in attributes]
        del node.attribute[:]
        added = [helper.make_attribute(name, value) for name, value in attributes.items() if value is not None]
        node.attribute.extend([*rest, *added])
    replaced: set[str] = set()
    taken = {tensor.name for tensor in proto.graph.initializer} | set(done.model.shapes)
    for (index, position), values in done.edits.constants.items():
        name = f"{proto.graph.node[index].input[position]}_rescaled"
        while name in taken:
            name += "_"
        taken.add(name)
        replaced.add(proto.graph.node[index].input[position])
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
        proto.graph.node[index].input[position] = name
    read = {name for node in proto.graph.node for name in (*node.input, *outer_names(node))}
    read |= {value.name for value in (*proto.graph.output, *proto.graph.input)}
    for tensor in [t for t in proto.graph.initializer if t.name in replaced - read]:
        proto.graph.initializer.remove(tensor)


def _neighbours(done: GraphPass, proto: Any) -> None:
    """Insert what stands before and behind nodes, from the last node to the first: positions in front of it stay."""
    for index in sorted({*done.edits.padding, *done.edits.behind}, reverse=True):
        for node in reversed(_behind(done, proto, index)):
            proto.graph.node.insert(index + 1, node)
        if index in done.edits.padding:
            proto.graph.node.insert(index, _padding(done, proto, index))


def _padding(done: GraphPass, proto: Any, index: int) -> Any:
    """A Pad node for a node that cannot pad itself, which reads the result."""
    node, (pads, value) = proto.graph.node[index], done.edits.padding[index]
    out, given = f"{node.output[0]}_padded", node.input[0]
    node.input[0] = out
    mode = "edge" if value is None else "constant"
    if done.opset() < 11:
        more: dict[str, Any] = {} if value is None else {"value": value}
        return helper.make_node("Pad", [given], [out], out, mode=mode, pads=pads, **more)
    kind = helper.tensor_dtype_to_np_dtype(done.model.kinds[given])
    amounts = numpy_helper.from_array(np.array(pads, np.int64), f"{out}_by")
    filled = [] if value is None else [numpy_helper.from_array(np.array(value, kind), f"{out}_with")]
    proto.graph.initializer.extend([amounts, *filled])
    return helper.make_node("Pad", [given, amounts.name, *(f.name for f in filled)], [out], out, mode=mode)


def _behind(done: GraphPass, proto: Any, index: int) -> list[Any]:
    """The nodes behind a node, the last of which gives the result under its name."""
    node, steps = proto.graph.node[index], done.edits.behind.get(index, [])
    last, kind = node.output[0], helper.tensor_dtype_to_np_dtype(done.model.kinds[node.input[0]])
    names = [*(f"{last}_pooled{number}" for number in range(len(steps))), last]
    node.output[0] = names[0]
    made = []
    for (op, values, axis), given, out in zip(steps, names, names[1:], strict=False):
        constant = numpy_helper.from_array(values.astype(np.int64 if op == "Gather" else kind), f"{out}_{op.lower()}")
        proto.graph.initializer.append(constant)
        more: dict[str, Any] = {"axis": axis} if op == "Gather" else {}
        made.append(helper.make_node(op, [given, constant.name], [out], f"{out}_{op.lower()}", **more))
    return made


def _averages(done: GraphPass, proto: Any) -> None:
    """Make convolutions with equal weights of average poolings."""
    for index, channels in done.edits.averages.items():
        node = proto.graph.node[index]
        kernel = next(a for a in node.attribute if a.name == "kernel_shape").ints
        kind = helper.tensor_dtype_to_np_dtype(done.model.kinds[node.input[0]])
        weight = np.full((channels, 1, *kernel), 1 / math.prod(kernel), kind)
        proto.graph.initializer.append(numpy_helper.from_array(weight, f"{node.output[0]}_average"))
        kept = [a for a in node.attribute if a.name in ("kernel_shape", "strides", "pads", "dilations")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("group", channels)])
        node.op_type = "Conv"
        node.input.append(f"{node.output[0]}_average")


def _shapes(done: GraphPass, proto: Any) -> None:
    """Set the new sizes of inputs and outputs, infer all other shapes again, and check them."""
    sizes = {}
    for given in done.model.inputs:
        if given.name in done.model.shapes:
            axes = done.axes.get(given.name)
            sizes[given.name] = new_shape(axes) if axes is not None else done.model.shapes[given.name]
    _resize(done, proto.graph.input)
    _resize(done, proto.graph.output)
    found, _ = inferred(proto, sizes, shown_path(done.model.path))
    makers = {out: node for node in done.model.proto.graph.node for out in node.output}
    for name, axes in done.axes.items():
        if name in done.padded or name not in found or not grows(axes):
            continue
        if found[name] != new_shape(axes):
            node = makers.get(name)
            which = f"{shown(done.model.named(node))} ({shown(node.op_type)})" if node is not None else shown(name)
            raise RekernelError(
                f"{which}: gives {found[name]} at the new size, but {new_shape(axes)} was planned; choose a size and "
                f"scale that every stride divides, or exclude the layer"
            )
    for value in list(proto.graph.value_info):
        if value.name in found or value.name in done.axes:
            proto.graph.value_info.remove(value)


def _resize(done: GraphPass, values: Any) -> None:
    """Replace sizes that are numbers; open sizes stay open."""
    for value in values:
        axes = done.axes.get(value.name)
        if axes is None or not value.type.tensor_type.HasField("shape"):
            continue
        for dim, old, n in zip(value.type.tensor_type.shape.dim, axes, new_shape(axes), strict=True):
            if dim.HasField("dim_value") and any(part.scale != 1 for part in old):
                dim.dim_value = n
