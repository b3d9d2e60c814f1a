"""Handle ONNX operators with weights on a grid that grows: convolutions and matrix products.

Scope: the modes and settings of these layers. Not here: what becomes of a weight (see `onnx.layer_changes` and
`planning.rules`), poolings (see `onnx.pools`), and attributes (see `onnx.windows`).
"""

from __future__ import annotations

from ..escape import shown
from ..plan.changes import Mode
from ..planning.layers import Weight
from ..planning.roles import ABSORB, SUPERSAMPLE, Role, role_of, settings_of
from .axes import Axes, Part, broadcast, new_shape, old_shape, plain, scale_of
from .graph_pass import GraphPass, Refusal
from .layer_changes import KernelWindow, conv_change, linear_change
from .pools import pool
from .windows import conv_window, geometry_of, set_window


def _conv(at: GraphPass) -> None:
    given, weight = at.node.input[:2]
    axes = at.of(given)
    transposed = at.node.op_type == "ConvTranspose"
    if weight not in at.model.constants:
        raise Refusal(f"its weight {shown(weight)} is computed (quantised, or shared through other nodes)")
    if any(scale_of(axis) != 1 for axis in axes[:2]):
        raise Refusal("reads a grid that lies in the batch or the channels")
    shape = tuple(at.model.constants[weight].dims)
    window = conv_window(at, shape[2:], axes)
    scales = tuple(map(scale_of, axes[2:]))
    out_shape = at.shape_out()
    role = role_of(window.stride, transposed=transposed, reads_image=given in at.fresh)
    mode = _mode(at, weight, role)
    leaving = scales
    if _stays(at, weight, window, mode):
        at.offsets[at.node.output[0]] = at.offset()
    else:
        if "output_shape" in at.attributes:
            raise Refusal("its output_shape is fixed; export it with pads")
        tensor = Weight(weight, at.dtype(weight), shape)
        far = max(window.dilation, default=1)
        settings = settings_of(at.asked.settings(weight), role, mode, at.network, dilation=far)
        cuts = role is Role.READS_IMAGE and settings.method != "dilate"  # each pixel is cut into smaller ones
        at_0 = (at.aligned and not cuts, at.aligned)
        # A weight that several nodes read cannot make up for different offsets.
        alone = at.model.users[weight] == 1 and not at.aligned and not transposed
        offset = at.offset()[1] if alone else ()
        change = at.change(
            weight,
            lambda: (
                conv_change(
                    tensor, window, scales, mode, settings, transposed=transposed, aligned=at_0, offset=offset
                ).change
            ),
        )
        leaving = (1.0,) * len(scales) if mode == ABSORB else scales
        if not change.kept:
            set_window(at, geometry_of(change), transposed=transposed, padding_mode=change.padding_mode)
    at.out((*plain(out_shape[:2]), *((Part(n, s),) for n, s in zip(out_shape[2:], leaving, strict=True))))


def _stays(at: GraphPass, weight: str, window: KernelWindow, mode: Mode) -> bool:
    """Whether a convolution stays as it is, so that its output grows by as much as its input."""
    if all(k == 1 for k in window.kernel) and all(t == 1 for t in window.stride) and mode != ABSORB:
        return True
    if at.reading.keeps_patch and at.index in at.reading.readers:
        patch = "x".join(map(str, window.kernel))
        at.keep(weight, f"patches of {patch} pixels stay, since they cannot grow by the scale")
        return True
    if weight in at.asked.excluded or (at.ready is not None and weight not in at.ready):
        at.keep(weight, "not selected")
        return True
    return False


def _mode(at: GraphPass, weight: str, role: Role) -> Mode:
    if at.ready is not None:
        return at.ready[weight].mode if weight in at.ready else SUPERSAMPLE
    given = at.asked.mode_of(weight)
    if given is not None:
        return given
    if at.reading.per_layer:  # a vision transformer keeps its tokens unless the caller says otherwise
        tokens = role is Role.READS_IMAGE and at.network.attends and not at.network.gives_image
        return ABSORB if tokens else SUPERSAMPLE
    return ABSORB if at.index in at.reading.readers and not at.reading.keeps_patch else SUPERSAMPLE


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
    if any(part.grid for part in read):
        raise Refusal("reads pixels and other tokens flattened together")
    if weight not in at.model.constants:
        raise Refusal(f"multiplies a flattened grid with {shown(weight)}, which is computed")
    if weight in at.asked.excluded:
        raise Refusal(f"{shown(weight)} reads a grid that grows, so it cannot be excluded; pool before it")
    tensor = Weight(weight, at.dtype(weight), tuple(at.model.constants[weight].dims))
    role = Role.READS_IMAGE if at.fresh.intersection(at.node.input) else None
    settings = settings_of(at.asked.settings(weight), role, ABSORB, at.network)
    at.change(weight, lambda: linear_change(tensor, axis, read, settings))


WEIGHTS = {
    "Conv": _conv, "ConvTranspose": _conv, "MaxPool": pool, "AveragePool": pool, "Gemm": _gemm, "MatMul": _matmul,
}  # fmt: skip
"""The handler of each operator."""
