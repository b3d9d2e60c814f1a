"""Check that an ONNX model is one: every node has the inputs and attributes that ONNX gives its operator.

Scope: nodes and sizes, before the graph is followed. Not here: reading the file (see `onnx.graph`), and what a node
does to a grid (see `onnx.walk`). ONNX's own checker refuses models that every runtime accepts, so only what the walk
relies on is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx

from ..errors import RekernelError
from ..escape import cause, shown

LARGEST_SIZE = 1 << 40
"""Largest size of an axis: above every memory, and small enough to multiply with a scale along three axes."""
_WINDOWS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 1, "output_shape": 1, "pads": 2}
_LEAST = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0}
_SLIDING = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
_LARGEST_WINDOW = 1 << 30
_FOREIGN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def understood(where: str) -> Iterator[None]:
    """Turn what a malformed model makes Python, NumPy or ONNX raise into a `RekernelError` about `where`.

    Examples
    --------
    >>> with understood("net.onnx"):
    ...     [][0]
    Traceback (most recent call last):
    rekernel.errors.RekernelError: net.onnx: not a model that rekernel can follow (list index out of range); if other
    programs run it, please report this
    """
    try:
        yield
    except RekernelError:
        raise
    except (*_FOREIGN, onnx.checker.ValidationError) as error:
        raise RekernelError(
            f"{where}: not a model that rekernel can follow ({cause(error)}); if other programs run it, please report "
            f"this"
        ) from error


def inlined(proto: Any, where: str) -> Any:
    """The model with its local functions in place of their calls."""
    from onnx.inliner import inline_local_functions

    try:
        return inline_local_functions(proto)
    except (onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        raise RekernelError(f"{where}: its local functions do not fit together: {first_line(error)}") from None


def check_nodes(proto: Any, where: str) -> None:
    """Raise unless every node has an output, and the inputs and attributes that ONNX gives its operator."""
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1)
    if not 1 <= opset < 1 << 31:
        raise RekernelError(f"{where}: version {opset} of ONNX's operators does not exist")
    for node in nodes_of(proto.graph):
        if fault := _fault(node, opset):
            raise RekernelError(f"{where}: {shown(node.name or node.op_type)} ({shown(node.op_type)}): {fault}")


def _fault(node: Any, opset: int) -> str:
    if not node.output:
        return "does not have an output"
    names = [attribute.name for attribute in node.attribute]
    if len(set(names)) < len(names):
        return "has an attribute twice"
    if reference := next((a for a in node.attribute if a.ref_attr_name), None):
        # A reference has a meaning in a function alone, and those are inlined.
        return f"its attribute {shown(reference.name)} refers to one of a function, outside of a function"
    if node.domain not in ("", "ai.onnx"):
        return ""
    try:
        schema = onnx.defs.get_schema(node.op_type, min(opset, onnx.defs.onnx_opset_version()), "")
    except onnx.defs.SchemaError:
        return ""  # newer than this onnx, or unknown: whoever follows the graph refuses it
    return _against(schema, node) or (_window(node) if node.op_type in _SLIDING else "")


def _against(schema: Any, node: Any) -> str:
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return f"has {len(node.input)} inputs, and ONNX gives it {schema.min_input} to {schema.max_input}"
    if len(node.output) > schema.max_output:
        return f"has {len(node.output)} outputs, and ONNX gives it at most {schema.max_output}"
    for position, given in enumerate(schema.inputs[: len(node.input)]):
        needed = given.option == onnx.defs.OpSchema.FormalParameterOption.Single
        if needed and not node.input[position]:
            return f"lacks its input {shown(given.name)}"
    given_names = {attribute.name for attribute in node.attribute}
    for name, known in schema.attributes.items():
        if known.required and name not in given_names:
            return f"lacks its attribute {shown(name)}"
    for attribute in node.attribute:
        expected = schema.attributes.get(attribute.name)
        if expected is not None and int(expected.type.value) != attribute.type:
            return f"its attribute {shown(attribute.name)} has another type than ONNX gives it"
    return ""


def _window(node: Any) -> str:
    given = {a.name: list(a.ints) for a in node.attribute if a.name in _WINDOWS}
    ranks = {len(values) / _WINDOWS[name] for name, values in given.items() if values}
    if len(ranks) > 1:
        return f"its {', '.join(sorted(given))} are of different lengths"
    for name, values in given.items():
        least = _LEAST.get(name, -_LARGEST_WINDOW)
        if not all(least <= n <= _LARGEST_WINDOW for n in values):
            return f"its {name} are {shown(str(values), 80)}"
    return ""


def check_shapes(shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Raise for a negative size, and for one above every memory.

    Examples
    --------
    >>> check_shapes({"x": (1, 1 << 62)}, "net.onnx")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: net.onnx: x: a shape of (1, 4611686018427387904) is impossible
    """
    for name, shape in shapes.items():
        if not all(0 <= n <= LARGEST_SIZE for n in shape):
            raise RekernelError(f"{where}: {shown(name)}: a shape of {shown(str(tuple(shape)), 80)} is impossible")


def check_ranks(graph: Any, shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Raise if an input or output is declared with another number of axes than its values have."""
    for value in (*graph.input, *graph.output):
        declared, found = value.type.tensor_type, shapes.get(value.name)
        if found is not None and declared.HasField("shape") and len(declared.shape.dim) != len(found):
            raise RekernelError(
                f"{where}: {shown(value.name)}: is declared with {len(declared.shape.dim)} axes, and its values have "
                f"{len(found)}"
            )


def nodes_of(graph: Any) -> Iterator[Any]:
    """The nodes of a graph, and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes_of(inner)


def first_line(error: Exception) -> str:
    """The first line of an error of ONNX, for a message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return shown(lines[0] if lines else type(error).__name__, 300)
