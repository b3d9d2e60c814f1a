"""Read the windows of convolutions and poolings from the attributes of their nodes, and note the new attributes.

Scope: kernel sizes, strides, dilations and paddings, with that of a Pad node in front of a convolution. Not here: what
becomes of a layer (see `onnx.layer_changes` and `planning.rules`), and setting the attributes (see `onnx.rewrite`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import Option
from ..plan.changes import AxisGeometry, LayerChange
from .axes import Axes, old_shape
from .graph_pass import GraphPass, Refusal
from .layer_changes import KernelWindow


def window_of(at: GraphPass, kernel: Sequence[int], axes: Axes) -> KernelWindow:
    """The window of the current node, which reads a tensor with these axes."""
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


def conv_window(at: GraphPass, kernel: Sequence[int], axes: Axes) -> KernelWindow:
    """The window of a convolution, whose padding includes that of a Pad node in front of it."""
    window = window_of(at, kernel, axes)
    hand = at.padded.get(at.node.input[0])
    if hand is None:
        return window
    if any(map(any, window.padding)) and not hand.zeros:
        raise Refusal("pads with zeros after a Pad node that pads in another way")
    both = zip(window.padding, hand.sides[2:], strict=True)
    return replace(window, padding=tuple((a + c, b + d) for (a, b), (c, d) in both))


def geometry_of(change: LayerChange) -> tuple[AxisGeometry, ...]:
    """The geometry of the node of a change. A dilated layer keeps its kernel, whose taps are spread."""
    spread = {factor.axis: round(factor.scale) for factor in change.factors}
    if not spread:
        return change.new_geometry
    first = len(change.view) - len(change.geometry)
    return tuple(
        replace(new, kernel=old.kernel, dilation=old.dilation * spread.get(axis, 1))
        for axis, (old, new) in enumerate(zip(change.geometry, change.new_geometry, strict=True), first)
    )


def set_window(
    at: GraphPass, geometry: Sequence[AxisGeometry], *, transposed: bool = False, padding_mode: str = ""
) -> None:
    """Set the new attributes of the node. If a Pad node lies in front of it, the padding goes there."""
    sides = [g.padding for g in geometry]
    new: dict[str, Any] = {"kernel_shape": [g.kernel for g in geometry], "auto_pad": None}
    new |= {"strides": [g.stride for g in geometry], "dilations": [g.dilation for g in geometry]}
    hand = at.padded.get(at.node.input[0])
    if hand is not None:
        pads = [(0, 0), (0, 0), *sides]
        _set_pads(at, hand.index, [*(a for a, _ in pads), *(b for _, b in pads)])
        sides = [(0, 0)] * len(sides)
    if transposed:
        extra = [max(0, -right) for _, right in sides]
        sides = [(left, max(right, 0)) for left, right in sides]
        if any(e >= g.stride and e for e, g in zip(extra, geometry, strict=True)):
            raise Refusal("would need an output padding that is not smaller than its stride")
        new["output_padding"] = extra if any(extra) else None
    new["pads"] = [*(left for left, _ in sides), *(right for _, right in sides)]
    at.edits.attributes[at.index] = new
    repeats = padding_mode == "replicate" and any(map(any, sides))
    if repeats or any(left < 0 or right < 0 for left, right in sides):
        if transposed:
            raise Refusal(f"would need a negative padding, {sides}; choose an odd number of ", Option("taps", "--taps"))
        pad_before(at, sides, None if repeats else 0.0)


def pad_before(at: GraphPass, sides: Sequence[tuple[int, int]], value: float | None) -> None:
    """Pad, or crop where a side is negative, in a Pad node of its own, because the current node cannot.

    Parameters
    ----------
    value : float or None
        The value to pad with; None to repeat the last pixel.
    """
    pads = [(0, 0), (0, 0), *sides]
    at.edits.padding[at.index] = [*(left for left, _ in pads), *(right for _, right in pads)], value
    at.edits.attributes[at.index]["pads"] = None


def _set_pads(at: GraphPass, index: int, pads: list[int]) -> None:
    """Set the padding of a Pad node: an attribute or an input, by its version."""
    count = len(at.model.proto.graph.node[index].input)
    if count == 1:
        at.edits.attributes[index] = {"pads": pads}
        return
    at.edits.constants[index, 1] = np.array(pads, np.int64)
    if count > 3:
        at.edits.constants[index, 3] = np.arange(len(pads) // 2, dtype=np.int64)


def _same_padding(n: int, k: int, stride: int, dilation: int, *, upper: bool) -> tuple[int, int]:
    total = max((math.ceil(n / stride) - 1) * stride + dilation * (k - 1) + 1 - n, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)
