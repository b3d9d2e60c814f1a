"""Handle ONNX poolings on a grid that grows.

Scope: the attributes of poolings, and the nodes that do what a pooling cannot. Not here: what becomes of a pooling (see
`planning.pooling`), and which of its pixels count (see `planning.pool_axis`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..planning.pool_axis import PoolAxis
from ..planning.pooling import pooling
from ..resampling.geometry import pool_output_size
from .axes import Part, new_shape, old_shape, scale_of
from .graph_pass import GraphPass, Refusal
from .layer_changes import KernelWindow
from .windows import pad_before, window_of

Pads = list[tuple[int, int]]

_READ_NEIGHBOURS = frozenset({"ConvTranspose", "MaxPool", "AveragePool", "LpPool", "Resize", "Upsample"})


def pool(at: GraphPass) -> None:
    """Note what becomes of a pooling, and of the nodes around it."""
    axes = at.of(at.node.input[0])
    kind = "max-pool" if at.node.op_type == "MaxPool" else "avg-pool"
    if len(at.node.output) > 1 and at.node.output[1]:
        raise Refusal("gives the positions of its maxima, which are counted on the old grid")
    window = window_of(at, at.attributes["kernel_shape"], axes)
    hangs_over = bool(at.attributes.get("ceil_mode", 0)) and b"SAME" not in at.attributes.get("auto_pad", b"")
    shape = at.shape_out()
    _check_size(window, shape, hangs_over)
    scales, name = tuple(map(scale_of, axes[2:])), at.model.named(at.node)
    change = at.ready_modules.get(name)
    if at.ready is None:
        ends = _ends_grid(at, shape)
        given = window.axes(scales, [1.0 if end else s for s, end in zip(scales, ends, strict=True)], at.offset()[1])
        became = pooling(name, kind, [replace(a, hangs_over=hangs_over) for a in given], aligned=at.aligned)
        change = became.change
        if any(abs(beside) > 1e-6 for beside in became.offset):
            pairs = zip(became.offset, change.new_geometry, strict=True)
            at.offsets[at.node.output[0]] = name, tuple(beside / g.stride for beside, g in pairs)
    elif change is None or change.geometry != window.geometry():
        raise Refusal("the plan does not change this pooling as the model needs; plan again")
    read = [PoolAxis(*each, hangs_over) for each in zip(change.geometry, change.new_geometry, strict=True)]
    _rewrite(at, kind, read, new_shape(axes)[2:])
    at.modules.append(change)
    at.out((*axes[:2], *(
        (Part(n, 1.0 if axis.absorbs else s),) for n, s, axis in zip(shape[2:], scales, read, strict=True)
    )))  # fmt: skip


def _check_size(window: KernelWindow, shape: Sequence[int], hangs_over: bool) -> None:
    """Refuse a pooling of which ONNX's shape inference and the runtimes say different sizes."""
    given = zip(window.size, window.geometry(), strict=True)
    real = [
        pool_output_size(n, g.kernel, g.stride, g.padding, g.dilation, ceil_mode=hangs_over) for n, g in given
    ]  # fmt: skip
    if hangs_over and real != list(shape[2:]):
        raise Refusal(
            f"gives {real} pixels when it runs and {list(shape[2:])} by ONNX's shape inference, since its last window "
            f"would start in the padding; export the model with ceil_mode=False"
        )


def _ends_grid(at: GraphPass, shape: Sequence[int]) -> list[bool]:
    """For each axis, whether the pooling ends the grid there, as a global pooling does: it gives a single pixel.

    As in `rekernel.torch.planning.pools`, a single pixel is not the end of the grid if a node with a larger kernel
    reads it, or if it is joined with other single pixels.
    """
    one = [n == 1 for n in shape[2:]]
    never = [False] * len(one)
    behind = {at.node.output[0]}
    for node in at.model.proto.graph.node[at.index + 1 :] if any(one) else ():
        if behind.isdisjoint(node.input):
            continue
        others = [at.model.shapes.get(n, ()) for n in node.input if n not in behind and n not in at.model.constants]
        if any(other[2:] and all(n == 1 for n in other[2:]) for other in others):
            return never
        weight = at.model.constants[node.input[1]].dims if _reads_by_weight(at, node) else ()
        if node.op_type in _READ_NEIGHBOURS or any(n != 1 for n in weight[2:]):
            return never
        if not others:  # else a factor for every pixel of a larger grid
            behind.update(node.output)
    return one


def _reads_by_weight(at: GraphPass, node: Any) -> bool:
    return node.op_type == "Conv" and len(node.input) > 1 and node.input[1] in at.model.constants


def _rewrite(at: GraphPass, kind: str, read: Sequence[PoolAxis], size: Sequence[int]) -> None:
    """Note the attributes of the new pooling, the padding before it, and what repairs its result.

    onnxruntime requires the padding of a pooling to be smaller than its kernel, even if its taps are spread. An average
    pooling with spread taps becomes a convolution where the opset has none, or where its padding is too large.
    """
    geometry = [axis.new for axis in read]
    sides: Pads = [(a.new.padding[0], a.right(n)) for a, n in zip(read, size, strict=True)]
    new: dict[str, Any] = {"kernel_shape": [g.kernel for g in geometry], "auto_pad": None, "ceil_mode": None}
    new |= {"strides": [g.stride for g in geometry], "dilations": [g.dilation for g in geometry]}
    at.edits.attributes[at.index] = new
    if kind == "max-pool":
        _padded(at, sides, geometry, -math.inf)
    else:
        _average(at, read, size, sides)
    for position, (axis, n) in enumerate(zip(read, size, strict=True), 2):
        if axis.unseen(n):
            at.edits.behind.setdefault(at.index, []).append(
                ("Gather", axis.seen(np.arange(axis.count(n)), n), position)
            )


def _average(at: GraphPass, read: Sequence[PoolAxis], size: Sequence[int], sides: Pads) -> None:
    new = at.edits.attributes[at.index]
    geometry = [axis.new for axis in read]
    counts = bool(at.attributes.get("count_include_pad", 0)) and any(any(axis.old.padding) for axis in read)
    spread = any(g.dilation > 1 for g in geometry)
    zeros = [
        (min(left, pad[0]), min(right, pad[1]))
        for (left, right), pad in zip(sides, (a.old_padding if counts else (0, 0) for a in read), strict=True)
    ]  # fmt: skip
    beyond = [(a - c, b - d) for (a, b), (c, d) in zip(sides, zeros, strict=True)]
    whole = not any(map(any, beyond))  # then every window lies in the part that counts
    # Zeros in front are not a way out: onnxruntime before 1.31 moves them into the pooling and then refuses them.
    own = sides if whole else beyond
    if (spread and at.opset() < 19) or any(max(pair) >= g.kernel for pair, g in zip(own, geometry, strict=True)):
        _as_convolution(at, read, size, sides, counts=counts)
        return
    if not spread:
        new["dilations"] = None  # AveragePool has no dilations before opset 19
    new["count_include_pad"] = int(whole and counts)
    if whole:
        _padded(at, sides, geometry, 0.0)
        return
    if any(map(any, zeros)):
        pad_before(at, zeros, 0.0)
    new["pads"] = _pads(beyond)


def _as_convolution(
    at: GraphPass, read: Sequence[PoolAxis], size: Sequence[int], sides: Pads, *, counts: bool
) -> None:  # fmt: skip
    """Make the pooling a convolution with equal weights, and divide by the number of pixels that count."""
    at.edits.averages[at.index] = old_shape(at.of(at.node.input[0]))[1]
    _padded(at, sides, None, 0.0)
    for number, (axis, n) in enumerate(zip(read, size, strict=True), 1):
        if axis.overhangs(n, padding=counts):
            counted = axis.counted(np.arange(axis.count(n)), n, padding=counts)
            share = axis.new.kernel / np.maximum(counted, 1)
            factor = share.reshape(-1, *(1 for _ in read[number:]))
            at.edits.behind.setdefault(at.index, []).append(("Mul", factor, 0))


def _padded(at: GraphPass, sides: Pads, geometry: Any, value: float) -> None:
    """Pad in the node itself where it can, else in front of it; `geometry` is None for a convolution."""
    limits = [g.kernel for g in geometry] if geometry is not None else [math.inf] * len(sides)
    if all(0 <= side < most for pair, most in zip(sides, limits, strict=True) for side in pair):
        at.edits.attributes[at.index]["pads"] = _pads(sides)
    else:
        pad_before(at, sides, value)


def _pads(sides: Pads) -> list[int]:
    return [*(left for left, _ in sides), *(right for _, right in sides)]
