"""Read an ONNX model as a graph of nodes, constants and shapes, and serialise it.

Scope: ONNX's file format and its shape inference. External data is read when its values are needed; a model is written
as one file. Not here: scales (see `onnx.walk`), and where external data lies (see `onnx.external_data`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from ..checkpoint.dtypes import OF_ONNX
from ..checkpoint.file_kind import DOWNLOAD_AGAIN, open_regular
from ..errors import RekernelError
from ..escape import shown, shown_path
from .external_data import bring_in, data_bytes, is_outside, tensors_of
from .well_formed import check_nodes, check_ranks, check_shapes, first_line, inlined

LARGEST = (1 << 31) - (1 << 20)
"""Largest number of bytes of a protobuf file. Larger models need external data, which is not written."""
ASSUMED_SIZE = 64
"""Assumed number of pixels along an axis whose size the model leaves open; any multiple of the strides works."""

_DTYPES: dict[int, str] = {n: OF_ONNX[own] for own, n in onnx.TensorProto.DataType.items() if own in OF_ONNX}
_DOMAINS = ("", "ai.onnx")
_SMALL = 1024  # most values of a tensor of whole numbers that is not a weight
_FEW = 16  # most values of another tensor that is not a weight: scales of a Resize, the value of a Pad
_WHOLE = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.INT32})
_FOLDED = _WHOLE | {onnx.TensorProto.BOOL}


@dataclass
class Model:
    """A model, and what is known about its tensors.

    path : path of the file
    proto : the message of the model
    constants : tensors whose values the file holds, by name: initialisers and the results of Constant nodes
    shapes : shapes of all tensors that shape inference knows, with assumed numbers for open sizes
    kinds : data types of the same tensors, as ONNX numbers them
    users : number of nodes and outputs that read a tensor
    """

    path: Path
    proto: Any
    constants: dict[str, Any] = field(init=False)
    shapes: dict[str, tuple[int, ...]] = field(init=False)
    kinds: dict[str, int] = field(init=False)
    users: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.proto.graph
        self.constants = constants_of(graph)
        self.users = {}
        for name in (*(n for node in graph.node for n in node.input), *(out.name for out in graph.output)):
            self.users[name] = self.users.get(name, 0) + 1
        self.shapes, self.kinds = inferred(self.proto, {}, shown_path(self.path))
        check_ranks(graph, self.shapes, shown_path(self.path))

    @property
    def inputs(self) -> list[Any]:
        """The inputs of the graph that are not initialisers."""
        return [given for given in self.proto.graph.input if given.name not in self.constants]

    @property
    def outputs(self) -> list[Any]:
        return list(self.proto.graph.output)

    def array(self, name: str) -> NDArray[Any]:
        """The values of a constant."""
        tensor = self.constants[name]
        if is_outside(tensor):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(self.constants[name])
            bring_in(tensor, self.path)
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError) as error:
            raise RekernelError(f"{shown(name)}: its data does not fit its shape: {first_line(error)}") from None

    def dtype(self, name: str) -> str:
        """The dtype of a constant, as named by `dtype_name`."""
        return dtype_name(self.constants[name].data_type)

    def metadata(self) -> dict[str, str]:
        return metadata_of(self.proto)

    def named(self, node: Any) -> str:
        """The name of a node for messages: its own, or that of its first output."""
        return str(node.name or (node.output[0] if node.output else node.op_type))


def constants_of(graph: Any) -> dict[str, Any]:
    """The tensors whose values the file holds, by name: initialisers and the results of Constant nodes."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is not None:
            constants[node.output[0]] = value
    return constants


def metadata_of(proto: Any) -> dict[str, str]:
    """The metadata of a model.

    Examples
    --------
    >>> metadata_of(onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key="a", value="b")]))
    {'a': 'b'}
    """
    return {entry.key: entry.value for entry in proto.metadata_props}


def dtype_name(kind: int) -> str:
    """The safetensors name of an ONNX data type; ONNX's own name if safetensors has none.

    Examples
    --------
    >>> dtype_name(onnx.TensorProto.FLOAT), dtype_name(onnx.TensorProto.STRING), dtype_name(99)
    ('F32', 'STRING', '99')
    """
    kinds: Any = onnx.TensorProto.DataType
    return _DTYPES.get(kind) or (str(kinds.Name(kind)) if kind in kinds.values() else str(kind))


def read_proto(path: Path) -> Any:
    """Read the model in a file and inline its local functions. External data stays in its files."""
    where = shown_path(path)
    if not path.is_file():
        raise RekernelError(f"{where}: no such file")
    with os.fdopen(open_regular(path), "rb") as file:
        raw = file.read()
    try:
        proto = onnx.ModelProto.FromString(raw)
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise RekernelError(f"{where}: not a readable ONNX model: {first_line(error)}; {DOWNLOAD_AGAIN}") from None
    if not _is_text(proto):
        raise RekernelError(f"{where}: not a readable ONNX model: a name in it is not UTF-8 text")
    if not proto.graph.node:
        raise RekernelError(f"{where}: an ONNX model without a node")
    if proto.functions:
        proto = inlined(proto, where)
    check_nodes(proto, where)
    return proto


def _is_text(message: Any) -> bool:
    """Whether every text field of a message is text. Protobuf returns bytes if a field is not valid UTF-8."""
    if isinstance(message, onnx.TensorProto):  # its other fields hold data, perhaps gigabytes
        told = (text for entry in message.external_data for text in (entry.key, entry.value))
        return all(isinstance(text, str) for text in (message.name, *told))
    for kind, value in message.ListFields():
        values = [value] if isinstance(value, str | bytes | Message) else value
        if kind.type == kind.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return False
        if kind.type == kind.TYPE_MESSAGE and not all(map(_is_text, values)):
            return False
    return True


def read_by_value(proto: Any) -> list[Any]:
    """The tensors whose values decide the shape of a result, not only their own shapes: sizes, paddings, scales."""
    return [tensor for tensor in tensors_of(proto) if math.prod(tensor.dims) <= _most_values(tensor)]


def _most_values(tensor: Any) -> int:
    return _SMALL if tensor.data_type in _WHOLE else _FEW


def read_model(path: Path) -> Model:
    """Read a model, and replace nodes that compute whole numbers from small constants by their results.

    External data is read only for the tensors of `read_by_value`.
    """
    proto = read_proto(path)
    for tensor in read_by_value(proto):
        bring_in(tensor, path)
    model = Model(path, proto)
    before = set(model.users)
    while _fold(model):
        model = Model(path, proto)
    _drop_unread(proto.graph, before)
    return Model(path, proto)


def _drop_unread(graph: Any, before: set[str]) -> None:
    """Drop the constants that folded nodes read, and their results, where nothing reads them any more.

    onnxruntime warns of each constant that is not read.
    """
    read = {name for node in graph.node for name in (*node.input, *outer_names(node))}
    read |= {value.name for value in (*graph.input, *graph.output)}
    for tensor in [t for t in graph.initializer if t.name in before - read]:
        graph.initializer.remove(tensor)
    for node in [n for n in graph.node if n.op_type == "Constant" and set(n.output) <= before - read]:
        graph.node.remove(node)


def _fold(model: Model) -> bool:
    """Replace nodes that compute whole numbers or truth values from small constants by their results.

    Exporters compute paddings and shapes so. Returns whether any node was replaced. Shapes that depend on the new
    constants can then be inferred.
    """
    graph = model.proto.graph
    constants = model.constants.items()
    small = {name for name, tensor in constants if math.prod(tensor.dims) <= _SMALL and not is_outside(tensor)}
    opsets = {o.domain: o.version for o in model.proto.opset_import}
    done = []
    for node in graph.node:
        read = [name for name in node.input if name]
        results = [model.shapes.get(name) for name in node.output]
        fits = all(shape is not None and math.prod(shape) <= _SMALL for shape in results)
        whole = all(model.kinds.get(name) in _FOLDED for name in node.output)
        if not (read and fits and whole and is_standard(node) and small.issuperset(read)):
            continue
        with suppress(Exception):  # a node that the reference implementation cannot run stays as it is
            values = ReferenceEvaluator(node, opsets=opsets).run(None, {name: model.array(name) for name in read})
            tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in zip(node.output, values, strict=True)]
            done.append((node, tensors))
    for node, tensors in done:
        graph.node.remove(node)
        graph.initializer.extend(tensors)
    return bool(done)


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node as Python values.

    Examples
    --------
    >>> attributes(onnx.helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2]))
    {'strides': [2, 2]}
    """
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def is_standard(node: Any) -> bool:
    """Whether the operator of a node is one of ONNX itself."""
    return node.domain in _DOMAINS


def wrong_of(node: Any, proto: Any) -> str:
    """The error that ONNX's own checker finds in a node; empty if there is none."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = proto.ir_version
    context.opset_imports = {o.domain: o.version for o in proto.opset_import}
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        return first_line(error)
    return ""


def outer_names(node: Any) -> Iterator[str]:
    """The names of all tensors that the graphs inside a node (an If or a Loop) read."""
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from outer_names(inner)


def inferred(
    proto: Any, sizes: Mapping[str, tuple[int, ...]], where: str
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and data types of all tensors, for inputs of these sizes.

    An input that is not in `sizes` has the sizes of the model, and assumed numbers for open sizes.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:]
    constants = {tensor.name for tensor in copy.graph.initializer}
    for given in copy.graph.input:
        if given.name in constants or not given.type.HasField("tensor_type"):
            continue
        for position, dim in enumerate(given.type.tensor_type.shape.dim):
            if given.name in sizes:
                dim.dim_value = sizes[given.name][position]
            elif not dim.HasField("dim_value") or dim.dim_value < 1:
                dim.dim_value = 1 if position == 0 else ASSUMED_SIZE
    for out in copy.graph.output:
        if out.type.HasField("tensor_type"):
            out.type.tensor_type.ClearField("shape")
    try:
        result = shape_inference.infer_shapes(copy, check_type=True, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise RekernelError(f"{where}: its shapes do not fit together: {first_line(error)}") from None
    shapes = {tensor.name: tuple(tensor.dims) for tensor in result.graph.initializer}
    kinds = {tensor.name: int(tensor.data_type) for tensor in result.graph.initializer}
    for value in (*result.graph.value_info, *result.graph.input, *result.graph.output):
        kind = value.type.tensor_type
        kinds[value.name] = int(kind.elem_type)
        if value.type.HasField("tensor_type") and kind.HasField("shape"):
            dims = kind.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                shapes[value.name] = tuple(dim.dim_value for dim in dims)
    check_shapes(shapes, where)
    return shapes, kinds


def refuse_too_large(size: int, path: Path) -> None:
    """Raise if a model of `size` bytes does not fit into one file."""
    if size > LARGEST:
        raise RekernelError(
            f"{shown_path(path)}: {size:,} bytes of weights do not fit into one ONNX file (2 GiB), and external data "
            f"is not written. Convert to float16 first, or convert the weights as safetensors"
        )


def serialised(proto: Any, source: Path, target: Path) -> bytes:
    """The bytes of the model as one file, external data beside `source` included; raises if it is too large."""
    tensors = list(tensors_of(proto))
    size = sum(data_bytes(tensor) if is_outside(tensor) else tensor.ByteSize() for tensor in tensors)
    refuse_too_large(size, target)
    for tensor in tensors:
        bring_in(tensor, source)
    return bytes(proto.SerializeToString(deterministic=True))
