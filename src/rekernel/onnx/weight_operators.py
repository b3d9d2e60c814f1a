"""Handle ONNX operators with weights or kernels on a grid that grows: convolutions, poolings and matrix products.

Scope: the attributes of these operators, and where the new ones go. Not here: what becomes of a weight (see
`onnx.layer_changes` and `planning.rules`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..escape import shown
from ..plan.changes import Mode
from ..planning.layers import Weight
from ..planning.roles import ABSORB, SUPERSAMPLE, Network, Role, role_of
from ..planning.rules import offset_note, pooling
from .axes import Axes, Part, broadcast, new_shape, old_shape, plain, scale_of
from .graph_pass import GraphPass, Refusal
from .layer_changes import KernelWindow, conv_change, linear_change


def _window(at: GraphPass, kernel: Sequence[int], axes: Axes) -> KernelWindow:
    count = len(kernel)
    get = at.attributes.get
    sides = get("pads", [0] * 2 * count)
    auto = get("auto_pad", b"NOTSET").decode()
    size = old_shape(axes)[2:]
    stride, dilation = tuple(get("strides", [1] * count)), tuple(get("dilations", [1] * count))
    padding = tuple((sides[i], sides[i + count]) for i in range(count))
    if auto.startswith("SAME"):
        if at.node.op_type == "ConvTranspose":
            raise Refusal(f"auto_pad={auto} of a transposed convolution is not supported; export it with pads")
        padding = tuple(
            _same_padding(*one, upper=auto == "SAME_UPPER") for one in zip(size, kernel, stride, dilation, strict=True)
        )
    elif auto == "VALID":
        padding = ((0, 0),) * count
    return KernelWindow(tuple(kernel), stride, dilation, padding, size, tuple(get("output_padding", [0] * count)))


def _conv(at: GraphPass) -> None:
    given, weight = at.node.input[:2]
    axes = at.of(given)
    transposed = at.node.op_type == "ConvTranspose"
    if weight not in at.model.constants:
        raise Refusal(f"its weight {shown(weight)} is computed (quantised, or shared through other nodes)")
    if any(scale_of(axis) != 1 for axis in axes[:2]):
        raise Refusal("reads a grid that lies in the batch or the channels")
    shape = tuple(at.model.constants[weight].dims)
    window = _window(at, shape[2:], axes)
    scales = tuple(map(scale_of, axes[2:]))
    hand = at.padded.get(given)
    if hand is not None:
        own = any(map(any, window.padding))
        if own and not hand[2]:
            raise Refusal("pads with zeros after a Pad node that pads in another way")
        both = zip(window.padding, hand[1][2:], strict=True)
        window = KernelWindow(**{**vars(window), "padding": tuple((a + c, b + d) for (a, b), (c, d) in both)})
    out_shape = at.shape_out()
    pointwise = all(k == 1 for k in window.kernel) and all(t == 1 for t in window.stride)
    if pointwise or weight in at.asked.excluded or (at.ready is not None and weight not in at.ready):
        if not pointwise:
            at.keep(weight, "not selected")
        leaving = scales
    else:
        if "output_shape" in at.attributes:
            raise Refusal("its output_shape is fixed; export it with pads")
        mode = _mode(at, weight, role_of(window.stride, transposed=transposed, reads_image=given in at.fresh))
        settings, tensor = at.asked.settings(weight), Weight(weight, at.dtype(weight), shape)
        change = at.change(
            weight, lambda: conv_change(tensor, window, scales, mode, settings, transposed=transposed).change
        )
        if at.ready is not None:
            mode = change.mode
        leaving = (1.0,) * len(scales) if mode == ABSORB else scales
        if not change.kept:
            _set_window(at, change.new_geometry, transposed=transposed)
    at.out((*plain(out_shape[:2]), *((Part(n, s),) for n, s in zip(out_shape[2:], leaving, strict=True))))


def _set_window(at: GraphPass, geometry: Sequence[Any], *, transposed: bool = False) -> None:
    """Set the new attributes of the node. If a Pad node lies in front of it, the padding goes there."""
    sides = [g.padding for g in geometry]
    new: dict[str, Any] = {"kernel_shape": [g.kernel for g in geometry], "auto_pad": None}
    new |= {"strides": [g.stride for g in geometry], "dilations": [g.dilation for g in geometry]}
    hand = at.padded.get(at.node.input[0])
    if hand is not None:
        pads = [(0, 0), (0, 0), *sides]
        _set_pads(at, hand[0], [*(a for a, _ in pads), *(b for _, b in pads)])
        sides = [(0, 0)] * len(sides)
    if transposed:
        extra = [max(0, -right) for _, right in sides]
        sides = [(left, max(right, 0)) for left, right in sides]
        if any(e >= g.stride and e for e, g in zip(extra, geometry, strict=True)):
            raise Refusal("would need an output padding that is not smaller than its stride")
        new["output_padding"] = extra if any(extra) else None
    if any(left < 0 or right < 0 for left, right in sides):
        raise Refusal(f"would need a negative padding, {sides}; choose an odd number of taps, --taps")
    new["pads"] = [*(left for left, _ in sides), *(right for _, right in sides)]
    at.edits.attributes[at.index] = new


def _set_pads(at: GraphPass, index: int, pads: list[int]) -> None:
    """Set the padding of a Pad node: an attribute or an input, by its version."""
    count = len(at.model.proto.graph.node[index].input)
    if count == 1:
        at.edits.attributes[index] = {"pads": pads}
        return
    at.edits.constants[index, 1] = np.array(pads, np.int64)
    if count > 3:
        at.edits.constants[index, 3] = np.arange(len(pads) // 2, dtype=np.int64)


def _mode(at: GraphPass, weight: str, role: Role) -> Mode:
    # Looking through all nodes for every convolution would take time quadratic in the size of the graph.
    network = _network(at) if role is Role.READS_IMAGE else Network()
    absorbs = role is Role.READS_IMAGE and network.attends and not network.gives_image
    return at.asked.mode(weight) or (ABSORB if absorbs else SUPERSAMPLE)


def _network(at: GraphPass) -> Network:
    """Whether the graph has attention, and whether its output is an image of the size of its input."""
    nodes = at.model.proto.graph.node
    constants = at.model.constants
    products = any(n.op_type == "MatMul" and not any(i in constants for i in n.input) for n in nodes)
    attends = any(n.op_type in ("Attention", "MultiHeadAttention") for n in nodes)
    attends |= products and any(n.op_type == "Softmax" for n in nodes)
    shapes = at.model.shapes
    sizes = {shapes[n][2:] for n in at.fresh if n in shapes}
    images = any(shapes.get(out.name, ())[2:] in sizes for out in at.model.outputs)
    return Network(attends, images)


def _pool(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    kind = "max-pool" if at.node.op_type == "MaxPool" else "avg-pool"
    if len(at.node.output) > 1 and at.node.output[1]:
        raise Refusal("gives the positions of its maxima, which are counted on the old grid")
    window = _window(at, at.attributes["kernel_shape"], axes)
    scales = tuple(map(scale_of, axes[2:]))
    name = at.model.named(at.node)
    became = pooling(name, kind, window.axes(scales, scales))
    change = became.change
    if note := offset_note(shown(name), became.offset):
        at.say(note)
    counted = at.attributes.get("count_include_pad", 0) and any(map(any, window.padding))
    _set_window(at, change.new_geometry)
    if any(max(g.padding) >= g.kernel for g in change.new_geometry):
        sides = [(0, 0), (0, 0), *(g.padding for g in change.new_geometry)]
        at.edits.padding[at.index] = [*(left for left, _ in sides), *(right for _, right in sides)]
        at.edits.attributes[at.index]["pads"] = None
    if kind == "avg-pool":
        at.edits.attributes[at.index] |= {"count_include_pad": int(counted)}
        if all(g.dilation == 1 for g in change.new_geometry):
            at.edits.attributes[at.index]["dilations"] = None  # AveragePool has no dilations before opset 19
    at.modules.append(change)
    shape = at.shape_out()
    at.out((*axes[:2], *((Part(n, s),) for n, s in zip(shape[2:], scales, strict=True))))


def _gemm(at: GraphPass) -> None:
    given, weight = at.node.input[:2]
    axes = at.of(given)
    if at.attributes.get("transA") or given not in at.axes:
        raise Refusal("reads a grid as its second factor, or transposed")
    _product(at, axes, axes[1], weight, 1 if at.attributes.get("transB") else 0)
    at.out((axes[0], (Part(at.shape_out()[1]),)))


def _matmul(at: GraphPass) -> None:
    left, right = at.node.input
    a, b = at.of(left), at.of(right)
    if len(a) < 2 or len(b) < 2:
        raise Refusal("multiplies a grid that grows with a vector")
    if right in at.model.constants:
        _product(at, a, a[-1], right, len(b) - 2)
    elif left in at.model.constants:
        _product(at, b, b[-2], left, len(a) - 1)
    batch = broadcast([a[:-2], b[:-2]]) if len(a) > 2 or len(b) > 2 else ()
    if right in at.model.constants and new_shape((a[-1],)) != old_shape((a[-1],)):
        b = (*b[:-1], (Part(old_shape(b)[-1]),))
    at.out((*batch, a[-2], b[-1]))


def _product(at: GraphPass, axes: Axes, read: tuple[Part, ...], weight: str, axis: int) -> None:
    """Note the change of a matrix that reads `read` along its `axis`: it absorbs the scale of a grid that grows."""
    if all(part.scale == 1 for part in read):
        return
    if weight not in at.model.constants:
        raise Refusal(f"multiplies a flattened grid with {shown(weight)}, which is computed")
    if weight in at.asked.excluded:
        raise Refusal(f"{shown(weight)} reads a grid that grows, so it cannot be excluded; pool before it")
    tensor = Weight(weight, at.dtype(weight), tuple(at.model.constants[weight].dims))
    settings = at.asked.settings(weight)
    at.change(weight, lambda: linear_change(tensor, axis, read, settings))


def _same_padding(n: int, k: int, stride: int, dilation: int, *, upper: bool) -> tuple[int, int]:
    total = max((math.ceil(n / stride) - 1) * stride + dilation * (k - 1) + 1 - n, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


WEIGHTS = {
    "Conv": _conv, "ConvTranspose": _conv, "MaxPool": _pool, "AveragePool": _pool, "Gemm": _gemm, "MatMul": _matmul,
}  # fmt: skip
"""The handler of each operator."""
