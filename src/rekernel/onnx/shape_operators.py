"""Handle ONNX operators without weights on a grid that grows: pass the grid on, move its parts, or refuse.

Scope: one handler per operator; it reads the pass and notes the axes of the outputs. Not here: operators with weights
or kernels (see `onnx.weight_operators`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..escape import shown
from ..plan.changes import AxisGeometry, ModuleChange
from ..planning.layers import Weight
from .axes import Axes, Axis, Part, broadcast, grows, new_shape, old_shape, plain, regrouped, scale_of, tokens
from .graph_pass import GraphPass, Padded, Refusal
from .layer_changes import values_change

_SAME = """
    Relu LeakyRelu Sigmoid Tanh Erf Gelu Elu Selu Celu HardSigmoid HardSwish Softplus Softsign Mish Swish Clip Abs Neg
    Exp Log Sqrt Reciprocal Floor Ceil Round Sign Not IsNaN IsInf Cast CastLike Identity Dropout ThresholdedRelu Shrink
    BatchNormalization InstanceNormalization GroupNormalization LRN Softmax LogSoftmax QuantizeLinear DequantizeLinear
    Sin Cos
"""
_ELEMENTWISE = """
    Add Sub Mul Div Pow Mod Min Max Mean Sum Where PRelu And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual
"""
_FAR = 1 << 62


def _same(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    if at.node.op_type == "Softmax":
        axis = at.attributes.get("axis", -1 if at.opset() >= 13 else 1)
        if scale_of(axes[axis]) != 1:
            now, then = new_shape((axes[axis],))[0], old_shape((axes[axis],))[0]
            at.say(f"{at.model.named(at.node)}: attention looks at {now} tokens instead of {then}")
    for position, name in enumerate(at.node.output):
        if name and (position == 0 or at.model.shapes.get(name) == old_shape(axes)):
            at.out(axes, position)


def _elementwise(at: GraphPass) -> None:
    known = [at.axes[n] for n in at.node.input if n in at.axes]
    grid = broadcast(known)
    operands = list(known)
    operands += [_operand(at, name, grid) for name in at.node.input if name and name not in at.axes]
    at.out(broadcast(operands))


def _operand(at: GraphPass, name: str, grid: Axes) -> Axes:
    """The axes of another input of an elementwise node. A constant with a value for every pixel has to grow, too."""
    axes = at.of(name)
    shape = old_shape(axes)
    under = grid[len(grid) - len(shape) :]
    if all(n == 1 or scale_of(axis) == 1 for n, axis in zip(shape, under, strict=True)):
        return axes
    if name not in at.model.constants:
        raise Refusal(f"{shown(name)} of shape {shape} is computed, for a grid of the old size")
    wide = tuple(axis if n > 1 else (Part(1),) for n, axis in zip(shape, under, strict=True))
    if name in at.asked.excluded:
        raise Refusal(f"{shown(name)} has a value for every pixel, so it cannot be excluded")
    tensor = Weight(name, at.dtype(name), shape)
    at.change(name, lambda: values_change(tensor, wide, at.asked.settings(name)))
    return wide


def _mean(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    if at.node.op_type.startswith("Arg"):
        chosen = {at.attributes.get("axis", 0) % len(axes)}
        if any(scale_of(axes[i]) != 1 for i in chosen):
            raise Refusal("gives the position of a pixel, which is counted on the grid that grows")
    else:
        given = at.attributes.get("axes")
        if given is None and len(at.node.input) > 1 and at.node.input[1]:
            constant = at.constant(1)
            if constant is None:
                raise Refusal("its axes are computed")
            given = constant.tolist()
        chosen = {a % len(axes) for a in given} if given else set(range(len(axes)))
    keep = at.attributes.get("keepdims", 1)
    at.out(tuple((Part(1),) if i in chosen else a for i, a in enumerate(axes) if keep or i not in chosen))


def _reshape(at: GraphPass) -> None:
    axes = regrouped(at.of(at.node.input[0]), at.shape_out())
    target = at.constant(1) if at.node.op_type == "Reshape" else None
    if target is not None and len(target) == len(axes):
        at.resize_constant(1, target, axes)
    at.out(axes)


def _resize(at: GraphPass) -> None:
    axes, shape = at.of(at.node.input[0]), at.shape_out()
    if at.attributes.get("coordinate_transformation_mode", b"") == b"tf_crop_and_resize":
        raise Refusal("resizes with tf_crop_and_resize, which also crops")
    out = []
    for axis, n in zip(axes, shape, strict=True):
        out.append(axis if old_shape((axis,))[0] == n else (Part(n, scale_of(axis)),))
    sizes = at.constant(3)
    if sizes is not None and sizes.size:
        every = at.attributes.get("axes", range(len(out)))
        at.resize_constant(3, sizes, tuple(out[a] for a in every))
        _module(at, "upsample", axes, tuple(out))
    at.out(tuple(out))


def _module(at: GraphPass, kind: str, before: Axes, after: Axes) -> None:
    old, new = (tuple(AxisGeometry(n, 1, (0, 0)) for n in s) for s in (old_shape(after)[2:], new_shape(after)[2:]))
    at.modules.append(ModuleChange(at.model.named(at.node), kind, "fixed size", old, new))


def _shuffle(at: GraphPass) -> None:
    axes, shape = at.of(at.node.input[0]), at.shape_out()
    if any(scale_of(axis) != 1 for axis in axes[:2]):
        raise Refusal("moves pixels of a grid that lies in the batch or the channels")
    at.out((*plain(shape[:2]), *((Part(n, scale_of(a)),) for n, a in zip(shape[2:], axes[2:], strict=True))))


def _global_pool(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    at.out((*axes[:2], *(((Part(1),),) * (len(axes) - 2))))


def _layer_norm(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    if any(scale_of(axis) != 1 for axis in axes[at.attributes.get("axis", -1) :]):
        raise Refusal("normalises with a weight for every pixel of a grid that grows")
    at.out(axes)


def _transpose(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    order = at.attributes.get("perm", range(len(axes) - 1, -1, -1))
    at.out(tuple(axes[i] for i in order))


def _concat(at: GraphPass) -> None:
    inputs = [at.of(name) for name in at.node.input]
    axis = at.attributes["axis"] % len(inputs[0])
    pixels = [axes[axis] for axes in inputs if scale_of(axes[axis]) != 1]
    if pixels and (len(pixels) > 1 or pixels[0] is not inputs[-1][axis]):
        raise Refusal("concatenates other tokens behind those of a grid that grows")
    total = sum(old_shape(axes)[axis] for axes in inputs)
    joined = tokens(total - old_shape(inputs[-1])[axis], pixels[0]) if pixels else (Part(total),)
    rest = broadcast([(*axes[:axis], (Part(1),), *axes[axis + 1 :]) for axes in inputs])
    at.out((*rest[:axis], joined, *rest[axis + 1 :]))


def _split(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    axis = at.attributes.get("axis", 0) % len(axes)
    if scale_of(axes[axis]) != 1:
        raise Refusal("cuts a grid that grows into pieces")
    for position, name in enumerate(at.node.output):
        size = at.model.shapes[name][axis] if name in at.model.shapes else 0
        at.out((*axes[:axis], (Part(size),), *axes[axis + 1 :]), position)


def _slice(at: GraphPass) -> None:
    axes, shape = at.of(at.node.input[0]), at.shape_out()
    out = []
    for position, (axis, n) in enumerate(zip(axes, shape, strict=True)):
        if scale_of(axis) == 1:
            out.append(axis if old_shape((axis,))[0] == n else (Part(n),))
        else:
            out.append(axis if old_shape((axis,))[0] == n else _piece(at, position, axis, n))
    at.out(tuple(out))
    ends = at.constant(2)
    if ends is None:
        return
    places = at.constant(3)
    for_axes = places.tolist() if places is not None else range(len(ends))
    full = [scale_of(out[a]) != 1 for a in for_axes]
    new = np.array([_FAR if f and e > 0 else e for f, e in zip(full, ends.tolist(), strict=True)], np.int64)
    if any(full):
        at.edits.constants[at.index, 2] = (
            new if ends.dtype == np.int64 else np.minimum(new, 2**31 - 1).astype(ends.dtype)
        )


def _piece(at: GraphPass, position: int, axis: Axis, n: int) -> Axis:
    """The axis of the first tokens, which are not pixels, or of all pixels behind them."""
    starts, places = at.constant(1), at.constant(3)
    where = position if places is None else [a % len(at.of(at.node.input[0])) for a in places.tolist()].index(position)
    first = int(starts[where]) if starts is not None else -1
    part = axis[0]
    if part.grid and first == 0 and n <= part.ahead:
        return (Part(n),)
    if part.grid and first == part.ahead and n == part.size - part.ahead:
        return part.grid
    raise Refusal("cuts a piece out of a grid that grows")


def _gather(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    axis = at.attributes.get("axis", 0) % len(axes)
    indices = at.of(at.node.input[1])
    chosen, ahead = at.constant(1), axes[axis][0].ahead
    token = ahead and chosen is not None and bool(np.all((chosen >= 0) & (chosen < ahead)))
    if (scale_of(axes[axis]) != 1 and not token) or grows(indices):
        raise Refusal("selects single pixels of a grid that grows")
    at.out((*axes[:axis], *indices, *axes[axis + 1 :]))


def _expand(at: GraphPass) -> None:
    axes, shape = at.of(at.node.input[0]), at.shape_out()
    out = broadcast([axes, tuple((Part(n),) if scale_of(a) == 1 else a for n, a in zip(
        shape, ((Part(1),),) * (len(shape) - len(axes)) + axes, strict=True))])  # fmt: skip
    target = at.constant(1)
    if target is not None and len(target) == len(out):
        at.resize_constant(1, target, out)
    at.out(out)


def _of_all_axes(at: GraphPass, pads: Any, count: int) -> Any:
    """Padding before and after each of `count` axes; the node may list only some. None if it is computed."""
    if len(at.node.input) < 4 or pads is None:
        return pads
    axes = at.constant(3)
    if axes is None:
        return None
    spread = [0] * (2 * count)
    for i, axis in enumerate(int(a) % count for a in axes):
        spread[axis], spread[count + axis] = int(pads[i]), int(pads[i + len(axes)])
    return spread


def _pad(at: GraphPass) -> None:
    axes = at.of(at.node.input[0])
    value: Any
    if len(at.node.input) == 1:  # attributes, before opset 11
        pads, value = at.attributes.get("pads"), np.float32(at.attributes.get("value", 0.0))
    else:
        pads, value = at.constant(1), at.constant(2)
    pads = _of_all_axes(at, pads, len(axes))
    if pads is None:
        raise Refusal("the amount of padding is computed")
    mode = at.attributes.get("mode", b"constant").decode()
    zeros = mode == "constant" and (value is None or float(value.reshape(-1)[0]) == 0)
    sides = tuple((int(pads[i]), int(pads[i + len(axes)])) for i in range(len(axes)))
    if not any(any(pair) for pair, axis in zip(sides, axes, strict=True) if scale_of(axis) != 1):
        shape = at.shape_out()
        at.out(tuple((Part(n),) if any(p) else a for n, p, a in zip(shape, sides, axes, strict=True)))
        return
    if any(map(any, sides[:2])) or at.model.users.get(at.node.output[0]) != 1:
        raise Refusal("pads channels together with pixels, or several nodes read its result")
    at.padded[at.node.output[0]] = Padded(at.index, sides, zeros)
    at.axes[at.node.output[0]] = axes


_BY_OPERATORS: dict[str, Callable[[GraphPass], None]] = {
    _SAME: _same,
    _ELEMENTWISE: _elementwise,
    "ReduceMean ReduceMax ReduceMin ArgMax ArgMin": _mean,
    "Reshape Flatten Squeeze Unsqueeze": _reshape,
    "Resize Upsample": _resize,
    "DepthToSpace SpaceToDepth": _shuffle,
    "GlobalAveragePool GlobalMaxPool": _global_pool,
    "LayerNormalization RMSNormalization": _layer_norm,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "Pad": _pad,
}
MOVEMENT = {operator: handler for operators, handler in _BY_OPERATORS.items() for operator in operators.split()}
"""The handler of each operator."""
