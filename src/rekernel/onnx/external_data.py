"""Read the tensors of an ONNX model whose data lies in other files (external data), and only from the model's folder.

Scope: ONNX's tensor message, and files below the folder of the model. `onnx.load` reads such data, too, but all of it
at once, and it refuses links, of which the Hub's cache consists. Not here: the graph (see `onnx.graph`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from ..checkpoint.file_kind import open_regular
from ..checkpoint.paths import contained, plain_parts
from ..errors import RekernelError
from ..escape import shown, shown_path

_BITS = {
    "INT4": 4,
    "UINT4": 4,
    "FLOAT4E2M1": 4,
    "INT2": 2,
    "UINT2": 2,
}  # bits of packed types; NumPy counts whole bytes


def tensors_of(proto: Any) -> Iterator[Any]:
    """All tensors of a model: initialisers and attributes, also in graphs inside nodes and in local functions."""
    yield from _in_graph(proto.graph)
    for function in proto.functions:
        yield from _in_nodes(function.node)


def is_outside(tensor: Any) -> bool:
    """Whether the data of a tensor lies in another file than the model.

    Examples
    --------
    >>> is_outside(TensorProto(name="w", dims=[2]))
    False
    """
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def data_files(tensors: Iterable[Any], model: Path) -> list[Path]:
    """The files that hold the external data of `tensors`.

    Raises
    ------
    RekernelError
        If a file does not lie below the folder of the model.
    """
    return [model.parent / name for name in sorted({_place(t, model).as_posix() for t in tensors if is_outside(t)})]


def data_bytes(tensor: Any) -> int:
    """Number of bytes of the values of a tensor.

    Examples
    --------
    >>> data_bytes(TensorProto(dims=[2, 3], data_type=TensorProto.FLOAT16))
    12
    >>> data_bytes(TensorProto(dims=[3], data_type=TensorProto.INT4))
    2
    """
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    try:
        name = TensorProto.DataType.Name(tensor.data_type)
        bits = _BITS.get(name) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError):
        raise RekernelError(f"{shown(tensor.name)}: has a data type that ONNX does not know") from None
    if any(n < 0 for n in tensor.dims):
        raise RekernelError(f"{shown(tensor.name)}: has a shape with negative sizes, {list(tensor.dims)}")
    return -(-math.prod(map(int, tensor.dims)) * int(bits) // 8)


def bring_in(tensor: Any, model: Path) -> None:
    """Read the external data of a tensor into the tensor itself. A tensor without external data is not changed.

    Raises
    ------
    RekernelError
        If the file is missing, lies outside the folder, or is too short for the tensor.
    """
    if not is_outside(tensor):
        return
    where = f"{shown_path(model)}: {shown(tensor.name)}"
    path = contained(model.parent, _place(tensor, model).as_posix())
    told = {entry.key: entry.value for entry in tensor.external_data}
    offset, nbytes = _number(told.get("offset", "0"), where), data_bytes(tensor)
    if "length" in told and _number(told["length"], where) != nbytes:
        raise RekernelError(f"{where}: its data is {told['length']} bytes long, but its shape needs {nbytes}")
    if not path.is_file():
        raise RekernelError(f"{where}: its data lies in {shown(path.name)}, which is missing; put it beside the model")
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if offset + nbytes > size:
            raise RekernelError(f"{where}: {shown(path.name)} has {size} bytes and is cut short; download it again")
        file.seek(offset)
        data = file.read(nbytes)
    if len(data) != nbytes:
        raise RekernelError(f"{where}: {shown(path.name)} was cut short while it was read")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = data


def _in_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _in_graph(graph)


def _place(tensor: Any, model: Path) -> Path:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    place = plain_parts(location)
    if place is None:
        raise RekernelError(
            f"{shown_path(model)}: {shown(tensor.name)}: its data is said to lie in {shown(location)}, which is not a "
            f"file below the model's folder; refused"
        )
    return place


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise RekernelError(f"{where}: {shown(text)} is not a position in a file")
    return int(text)
