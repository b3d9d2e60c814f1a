"""List what an ONNX model holds, without the values of its weights: constants, metadata, inputs and outputs.

Scope: ONNX's messages. The graph is not walked, so a model that cannot be rescaled can still be listed. Not here:
planning (see `onnx.walk`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.header import TensorInfo
from ..escape import shown_path
from ..messages.display import Displayed
from ..text import counted
from .external_data import data_bytes, data_files, tensors_of
from .graph import constants_of, dtype_name, metadata_of, read_proto
from .well_formed import understood


@dataclass(frozen=True)
class Value:
    """An input or an output of a model.

    name : its name
    dtype : safetensors name of its dtype; ONNX's kind of value if it is not a tensor
    shape : a number per axis, or the name of an open size, or '?' for one without a name; None if the rank is open
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, repr=False)
class Listing(Displayed):
    """The constants, metadata, inputs and outputs of a model.

    tensors : its constants, named as in a plan; the offsets are those of tensors stored one after the other
    metadata : metadata of the model
    inputs, outputs : inputs and outputs that are not constants
    beside : files that hold external data
    """

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    beside: tuple[Path, ...]

    def _line(self) -> str:
        ends = f"{counted(len(self.inputs), 'input')}, {counted(len(self.outputs), 'output')}"
        return f"{counted(len(self.tensors), 'tensor')}, {ends}"


def list_model(path: Path) -> Listing:
    """List a model. Only its own file is read, and not its external data.

    Examples
    --------
    >>> import tempfile
    >>> from onnx import helper, save, TensorProto
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "height"]) for name in "xy")
    >>> path = Path(tempfile.mkdtemp()) / "net.onnx"
    >>> save(helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])), path)
    >>> list_model(path).inputs
    (Value(name='x', dtype='F32', shape=(1, 3, 'height')),)
    """
    with understood(shown_path(path)):
        return _listed(path)


def _listed(path: Path) -> Listing:
    proto = read_proto(path)
    constants = constants_of(proto.graph)
    tensors, start = [], 0
    for name, tensor in constants.items():
        end = start + data_bytes(tensor)
        tensors.append(TensorInfo(name, dtype_name(tensor.data_type), tuple(tensor.dims), start, end))
        start = end
    inputs = tuple(_value(given) for given in proto.graph.input if given.name not in constants)
    outputs = tuple(map(_value, proto.graph.output))
    return Listing(tuple(tensors), metadata_of(proto), inputs, outputs, tuple(data_files(tensors_of(proto), path)))


def _value(given: Any) -> Value:
    kind = given.type.WhichOneof("value") or "unknown"
    if kind != "tensor_type":
        return Value(given.name, kind.removesuffix("_type"), None)
    tensor = given.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    return Value(given.name, dtype_name(tensor.elem_type), tuple(dims) if tensor.HasField("shape") else None)
