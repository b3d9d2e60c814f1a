"""Tell which ONNX nodes commute with the reduction of the image: f(reduce(x)) = reduce(f(x)), border included.

Only behind such nodes may a layer absorb the scale, since the layer then reduces f(x) where the trained network had
f(reduce(x)). They are sums with constants, products with constants, casts, batch norm, and moves that leave the pixels
in place. Every other operator is taken not to commute.
Scope: one node and its inputs. Not here: what happens where a node does not commute (see `onnx.reading`).
"""

from __future__ import annotations

from collections.abc import Callable

from ..checkpoint.dtypes import FLOATS
from .axes import Axes, broadcast, regrouped, scale_of
from .graph import dtype_name
from .graph_pass import GraphPass

_MOVES = "Identity Neg Flatten Squeeze Unsqueeze Transpose Gather Split"


def commutes(at: GraphPass) -> bool:
    """Whether the current node commutes with the reduction of the image.

    The tensors of `at.axes` are the image, and moves of it. A move has to be carried out by its handler afterwards,
    which refuses to cut a grid that grows.
    """
    test = _TESTS.get(at.node.op_type)
    return test is not None and test(at, [name for name in at.node.input if name in at.axes])


def _move(at: GraphPass, images: list[str]) -> bool:
    return len(images) == 1 and at.node.input[0] == images[0]


def _slice(at: GraphPass, images: list[str]) -> bool:
    return _move(at, images) and all(name in at.model.constants for name in at.node.input[1:] if name)


def _reshape(at: GraphPass, images: list[str]) -> bool:
    """Whether the shape is a constant, or computed with an open size where the pixels are."""
    name = at.node.input[1]
    if not _move(at, images) or name in at.model.constants:
        return _move(at, images)
    made = next((node for node in at.model.proto.graph.node if name in node.output), None)
    out = at.model.shapes.get(at.node.output[0])
    if made is None or made.op_type != "Concat" or out is None or len(made.input) != len(out):
        return False
    pixels = [scale_of(axis) != 1 for axis in regrouped(at.of(images[0]), out)]
    return all(
        not pixel or (part in at.model.constants and at.model.array(part).tolist() == [-1])
        for part, pixel in zip(made.input, pixels, strict=True)
    )


def _dropout(at: GraphPass, images: list[str]) -> bool:
    return _move(at, images) and len(at.node.input) < 3  # the third input may tell it to train


def _pad(at: GraphPass, images: list[str]) -> bool:
    return _move(at, images) and at.attributes.get("mode", b"constant") in (b"constant", b"wrap")


def _cast(at: GraphPass, images: list[str]) -> bool:
    return _gives_floats(at)


def _join(at: GraphPass, images: list[str]) -> bool:
    return len(images) == len(at.node.input)


def _sum(at: GraphPass, images: list[str]) -> bool:
    return _even(at, images)


def _product(at: GraphPass, images: list[str]) -> bool:
    return len(images) == 1 and _even(at, images)


def _quotient(at: GraphPass, images: list[str]) -> bool:
    return _move(at, images) and _even(at, images)


def _batch_norm(at: GraphPass, images: list[str]) -> bool:
    channels = at.of(at.node.input[0])[1]
    return _move(at, images) and scale_of(channels) == 1 and not at.attributes.get("training_mode", 0)


def _even(at: GraphPass, images: list[str]) -> bool:
    """Whether every tensor that is combined with the image has one value for all pixels of a channel."""
    grid = broadcast([at.axes[name] for name in images])
    others = [at.model.shapes.get(name) for name in at.node.input if name not in images]
    return _gives_floats(at) and all(shape is not None and _one_value(shape, grid) for shape in others)


def _one_value(shape: tuple[int, ...], grid: Axes) -> bool:
    """Whether a tensor of this shape has one value for all pixels, and adds no axis to the grid."""
    if len(shape) > len(grid):
        return False
    under = grid[len(grid) - len(shape) :]
    return all(n == 1 or scale_of(axis) == 1 for n, axis in zip(shape, under, strict=True))


def _gives_floats(at: GraphPass) -> bool:
    """Whether the result has floats: whole numbers would be rounded."""
    return dtype_name(at.model.kinds.get(at.node.output[0], 0)) in FLOATS


_TESTS: dict[str, Callable[[GraphPass, list[str]], bool]] = {
    **dict.fromkeys(_MOVES.split(), _move),
    "Slice": _slice,
    "Reshape": _reshape,
    "Dropout": _dropout,
    "Pad": _pad,
    "Cast": _cast,
    "Concat": _join,
    "Add": _sum,
    "Sub": _sum,
    "Mul": _product,
    "Div": _quotient,
    "BatchNormalization": _batch_norm,
}
"""The test of each operator that may commute."""
