"""Decide what each kind of layer becomes at a scale. Every planner calls these functions.

Scope: tensors, kernels, strides, paddings and sizes. Not here: how a layer is found. `planning.tensor` reads names and
shapes, `rekernel.torch.planning` reads a trace, and `rekernel.onnx` reads a graph; each describes the layers that it
finds with the records of `planning.layers`.
Poolings, which have no tensor, are in `planning.pooling`.
Derivation: docs/mathematics.md, "Stay on the grid" and "Pointwise layers, pooling, and what stays".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..errors import RekernelError
from ..plan.changes import AxisGeometry, AxisOperator, LayerChange, Mode, ModuleChange
from ..resampling.geometry import (
    PHASE_TOLERANCE,
    ConvGeometry,
    conv_geometry,
    conv_transpose_geometry,
    new_size,
)
from ..resampling.methods import TapsRule, canonical_method, for_grid
from ..resampling.operators import kernel_taps
from .layers import Became, Cells, ConvAxis, Weight
from .roles import ABSORB, AUTO, SUPERSAMPLE, reading_method
from .settings import Settings

Aligned = tuple[bool, bool]
CENTRED: Aligned = (False, False)


def convolution(
    weight: Weight,
    axes: Sequence[ConvAxis],
    settings: Settings,
    *,
    first: int,
    mode: Mode,
    reason: str,
    transposed: bool = False,
    factored: bool = False,
    aligned: Aligned = CENTRED,
    view: tuple[int, ...] = (),
) -> Became:
    """Rescale a convolution whose input grid grows.

    Parameters
    ----------
    weight : Weight
        The kernel, in any layout in which the spatial axes are adjacent.
    axes : sequence of ConvAxis
        One per spatial axis.
    first : int
        Position of the first spatial axis in `view`, or in the tensor if no view is given.
    mode : {'supersample', 'absorb'}
        Whether the output grows with the input, or the stride grows instead.
    reason : str
        The reason that the plan shows.
    transposed : bool
        Whether the convolution is a transposed one.
    factored : bool
        Keep the weight and put a blur in front of the layer, instead of making a dense kernel.
    aligned : (bool, bool)
        Whether pixel 0 stays pixel 0 on the input grid and on the output grid (see `conv_phase`). Between aligned
        grids, old tap j lies at pixel `scale * (j - padding)`, whatever the stride, so a network of dilated layers does
        at every phase what the trained network does on a shifted picture. By default the kernel is centred where the
        trained one was, which may need taps between pixels.
    view : tuple of int, optional
        Shape of the kernel, if the tensor holds it flattened.

    Raises
    ------
    RekernelError
        If a transposed convolution is to absorb, if the new patch size is not a whole number, or if no kernel fits.

    Examples
    --------
    >>> axis = ConvAxis(AxisGeometry(3, 2, (1, 1)), 2.0, 2.0, 16)
    >>> became = convolution(
    ...     Weight("conv.weight", "F32", (8, 4, 3)), [axis], Settings(2.0, "optimal"), first=2, mode="supersample",
    ...     reason="",
    ... )
    >>> became.change.new_shape, became.change.new_geometry
    ((8, 4, 6), (AxisGeometry(kernel=6, stride=2, padding=(3, 2), dilation=1),))
    """
    if transposed and mode == ABSORB:
        raise RekernelError("a transposed convolution enlarges and cannot absorb a scale; supersample it")
    patch = mode == ABSORB and not transposed and not factored and is_patch(axes)
    operators, after, offset = [], [], []
    for number, axis in enumerate(axes):
        operator, geometry, beside = (
            _patch_axis(first + number, axis, settings)
            if patch
            else _kernel_axis(first + number, axis, settings, transposed=transposed, factored=factored, aligned=aligned)
        )
        after.append(geometry)
        offset.append(beside)
        if operator is not None:
            operator.matrix()  # raises for an impossible operator here, where the caller still knows the layer
            operators.append(operator)
    if not operators:
        return Became(weight.kept("pointwise, or scale 1"), (0.0,) * len(axes))
    seen = view or weight.shape
    bare = not transposed and not any(any(axis.geometry.padding) for axis in axes)
    beyond = bare and any(side > 0 for geometry in after for side in geometry.padding)
    return Became(
        LayerChange(
            weight.name,
            weight.dtype,
            weight.shape,
            weight.shape if factored else _new_shape(weight.shape, seen, operators),
            "conv-transpose" if transposed else "patch" if patch else "conv",
            reason,
            view=seen,
            operators=() if factored else tuple(operators),
            factors=tuple(operators) if factored else (),
            geometry=tuple(axis.geometry for axis in axes),
            new_geometry=tuple(after),
            # The trained kernel saw pixels alone. Zeros beyond the border would be a step that no image has.
            padding_mode="replicate" if beyond else "",
            mode=mode,
        ),
        tuple(offset),
    )


def is_patch(axes: Sequence[ConvAxis]) -> bool:
    """Whether a convolution reads adjacent patches: its stride is its kernel size, it has no padding or dilation.

    Examples
    --------
    >>> is_patch([ConvAxis(AxisGeometry(16, 16, (0, 0)), 2.0, 1.0)])
    True
    """
    return all(a.geometry == AxisGeometry(a.geometry.kernel, a.geometry.kernel, (0, 0)) for a in axes)


def _patch_axis(position: int, axis: ConvAxis, settings: Settings) -> tuple[AxisOperator | None, AxisGeometry, float]:
    k = axis.geometry.kernel
    new = new_size(k, axis.scale_in, exact=True, what=f"a patch of {k} pixels")
    return settings.on_grid(position, k, new), AxisGeometry(new, new, (0, 0)), 0.0


def _kernel_axis(
    position: int, axis: ConvAxis, settings: Settings, *, transposed: bool, factored: bool, aligned: Aligned
) -> tuple[AxisOperator | None, AxisGeometry, float]:
    if axis.stays:
        return None, axis.geometry, 0.0
    method, taps = _blur(axis, settings) if factored else (settings.method, settings.taps)
    boxes = method in ("area", "nearest") and (aligned[1] or axis.scale_out == 1)
    if boxes and (taps is None or factored):
        taps = _boxes(axis)
    place = _placed(axis, method, taps, transposed=transposed, aligned=aligned)
    if factored and isinstance(taps, int) and abs(place.phase) > PHASE_TOLERANCE:  # one tap more centres it exactly
        place = _placed(axis, method, taps + 1, transposed=transposed, aligned=aligned)
    # 'dilate' cannot place taps between pixels, so the phase stays as an offset, as in every dilated network.
    phase, beside = (0.0, place.phase) if method == "dilate" else (place.phase, 0.0)
    beside = 0.0 if all(aligned) else beside
    k, dilation = axis.geometry.kernel, axis.geometry.dilation
    operator = settings.on_kernel(position, k, place.taps, axis.scale_in, method, phase=phase, dilation=dilation)
    return operator, AxisGeometry(place.taps, place.stride, place.padding), beside


def _boxes(axis: ConvAxis) -> int:
    """Number of new taps that the boxes of all old taps cover: each box is the pixels that one old pixel became."""
    g, scale = axis.geometry, axis.scale_in
    left = math.ceil(scale * g.padding[0] - 1e-9)
    return left + math.ceil(scale * (g.dilation * (g.kernel - 1) + 1 - g.padding[0]) - 1e-9)


def _placed(
    axis: ConvAxis, name: str, taps: int | TapsRule | None, *, transposed: bool, aligned: Aligned
) -> ConvGeometry:
    g, method = axis.geometry, canonical_method(name)
    if transposed:
        return conv_transpose_geometry(
            g.kernel, method=method, taps=taps, stride=g.stride, padding=g.padding[0],
            output_padding=axis.output_padding, dilation=g.dilation, scale_in=axis.scale_in, scale_out=axis.scale_out,
            size=axis.size, aligned=aligned,
        )  # fmt: skip
    return conv_geometry(
        g.kernel, method=method, taps=taps, stride=g.stride, padding=g.padding, dilation=g.dilation,
        scale_in=axis.scale_in, scale_out=axis.scale_out, size=axis.size, aligned=aligned, offset=axis.offset,
    )  # fmt: skip


def _blur(axis: ConvAxis, settings: Settings) -> tuple[str, int | TapsRule | None]:
    """Method and number of taps of the factored form.

    The blur is the same filter for every tap of the kernel, so the method is the shift-invariant one. Interpolation
    filters keep their full support, because a longer blur costs next to nothing.
    """
    if settings.taps not in (None, "full"):
        raise RekernelError(
            f"form='factored' takes taps='full', not {settings.taps!r}: a longer blur costs next to nothing"
        )
    if settings.method in ("optimal", "dilate"):
        return ("optimal-filter" if settings.method == "optimal" else "dilate"), None
    spread = axis.geometry.dilation * (axis.geometry.kernel - 1)
    taps = kernel_taps(1, axis.scale_in, canonical_method(settings.method))
    return settings.method, taps + round(axis.scale_in) * spread


def reads_grid(weight: Weight, axis: int, cells: Sequence[Cells], settings: Settings, reason: str) -> LayerChange:
    """Rescale a matrix whose `axis` reads a flattened grid: it absorbs the scale, and each old pixel keeps its gain.

    Examples
    --------
    >>> reads_grid(Weight("fc.weight", "F32", (5, 12)), 1, [Cells(3, 3), Cells(4, 8)], Settings(2.0), "").new_shape
    (5, 24)
    """
    return _on_cells(weight, {axis: cells}, settings, "linear-in", reason, mode=ABSORB)


def writes_grid(weight: Weight, axis: int, cells: Sequence[Cells], settings: Settings, reason: str) -> LayerChange:
    """Rescale a matrix or bias whose `axis` writes a flattened grid: interpolate its entries without a coefficient.

    Examples
    --------
    >>> writes_grid(Weight("fc.bias", "F32", (12,)), 0, [Cells(3, 3), Cells(4, 8)], Settings(2.0), "").new_shape
    (24,)
    """
    return _on_cells(weight, {axis: cells}, settings, "linear-out", reason, mode=SUPERSAMPLE)


def values(
    weight: Weight, axes: Mapping[int, Sequence[Cells]], settings: Settings, reason: str, *, prefix: int = 0
) -> LayerChange:
    """Interpolate a tensor with an entry for every pixel or token (position embeddings), without a coefficient.

    Parameters
    ----------
    axes : {axis of the tensor: its cells}
        An axis that is not listed keeps its size.
    prefix : int
        Number of entries at the start of the listed axis that are not pixels (class tokens); they stay in front.

    Examples
    --------
    >>> values(Weight("pos", "F32", (1, 17, 8)), {1: [Cells(4, 8)] * 2}, Settings(2.0), "", prefix=1).new_shape
    (1, 65, 8)
    """
    return _on_cells(weight, axes, settings, "values", reason, prefix=prefix, mode=SUPERSAMPLE)


def _on_cells(
    weight: Weight, axes: Mapping[int, Sequence[Cells]], settings: Settings, kind: str, reason: str, *, mode: Mode,
    prefix: int = 0,
) -> LayerChange:  # fmt: skip
    view: list[int] = []
    new_shape: list[int] = []
    operators: list[AxisOperator] = []
    for axis, size in enumerate(weight.shape):
        cells = axes.get(axis) or (Cells(size, size),)
        ahead = prefix if axis in axes else 0
        if math.prod(cell.old for cell in cells) + ahead != size:
            grid = "x".join(str(cell.old) for cell in cells)
            tokens = f" after {ahead} class tokens" if ahead else ""
            raise RekernelError(f"axis {axis} has {size} entries, which are not a grid of {grid}{tokens}")
        for cell in cells:
            operator = settings.on_grid(len(view), cell.old, cell.new, values=kind != "linear-in")
            if operator is not None:
                operators.append(operator)
            view.append(cell.old)
        new_shape.append(math.prod(cell.new for cell in cells) + ahead)
    if not operators:
        return weight.kept("scale 1")
    return LayerChange(
        weight.name, weight.dtype, weight.shape, tuple(new_shape), kind, reason, tuple(view), tuple(operators),
        prefix=prefix, grid_axis=next(iter(axes)) if kind == "values" and len(axes) == 1 else 0, mode=mode,
    )  # fmt: skip


def resized(name: str, kind: str, sizes: Sequence[Cells], reason: str) -> ModuleChange:
    """Give a module that holds the size of a grid, or of an attention window, the new size.

    Parameters
    ----------
    kind : {'upsample', 'unflatten', 'layer-norm', 'enlarge', 'window'}
    sizes : sequence of Cells
        One per spatial axis.

    Examples
    --------
    >>> resized("up", "upsample", [Cells(8, 16)], "fixed size").new_geometry
    (AxisGeometry(kernel=16, stride=1, padding=(0, 0), dilation=1),)
    """
    before, after = [], []
    for cells in sizes:  # attention windows are adjacent, so their stride is their size
        before.append(AxisGeometry(cells.old, cells.old if kind == "window" else 1, (0, 0)))
        after.append(AxisGeometry(cells.new, cells.new if kind == "window" else 1, (0, 0)))
    return ModuleChange(name, kind, reason, tuple(before), tuple(after))


def resampled_image(reason: str, settings: Settings, sizes: Sequence[Cells]) -> ModuleChange:
    """Resample the image to the trained size in front of the model, whose layers all stay as they were trained.

    Parameters
    ----------
    reason : str
        The reason why no layer absorbs the scale.
    sizes : sequence of Cells
        The trained and the new size of the image, one per spatial axis; empty where only names are known.

    Examples
    --------
    >>> resampled_image("stride 1", Settings(1.5), [Cells(16, 24)]).method
    'lanczos3'
    """
    before, after = (
        [AxisGeometry(n, 1, (0, 0)) for n in side] for side in ([c.old for c in sizes], [c.new for c in sizes])
    )
    asked = settings.reading_filter or settings.method
    asked = reading_method(settings) if asked == AUTO else for_grid(asked).removeprefix("pinv-")
    method = "area" if asked in ("optimal", "nearest") else asked
    return ModuleChange("", "resample", reason, tuple(before), tuple(after), method)


def shrinking_note(scales: Sequence[float], geometry: Sequence[AxisGeometry] = ()) -> str:
    """The note about kernels that supersample at a scale below 1; empty at any other scale.

    Parameters
    ----------
    geometry : sequence of AxisGeometry
        The trained geometry of the layer, which tells patches from other kernels.

    Examples
    --------
    >>> shrinking_note((2.0, 2.0))
    ''
    >>> shrinking_note((0.5,), [AxisGeometry(8, 8, (0, 0))])
    'patches shrink by the scale 0.5, which loses what enlarging the image keeps (the default mode enlarges it)'
    """
    least = min(scales, default=1.0)
    if least >= 1:
        return ""
    if geometry and all(g.kernel > 1 for g in geometry) and is_patch([ConvAxis(g, 1.0, 1.0) for g in geometry]):
        return (
            f"patches shrink by the scale {least:g}, which loses what enlarging the image keeps (the default mode "
            f"enlarges it)"
        )
    return (
        f"kernels shrink by the scale {least:g}, and one of 3 taps has no room for what it does on fewer pixels; to "
        f"keep what the network knows, enlarge the image to the trained size (mode absorb does this in front of it)"
    )


def offset_note(where: str, offset: Sequence[float]) -> str:
    """The note about features that do not lie at their exact place; empty if they do.

    Examples
    --------
    >>> offset_note("pool", (0.0, 0.0))
    ''
    """
    most = max(map(abs, offset), default=0.0)
    if most <= 1e-6:
        return ""
    return (
        f"{where}: its features lie {most:g} pixels beside their place, since pooling cannot shift by half a pixel, "
        f"and no convolution behind it makes up for that"
    )


def _new_shape(shape: tuple[int, ...], view: tuple[int, ...], operators: Sequence[AxisOperator]) -> tuple[int, ...]:
    """The new shape of the tensor, which may hold the kernel flattened after its first axis."""
    sizes = {operator.axis: operator.new for operator in operators}
    new = tuple(sizes.get(i, n) for i, n in enumerate(view))
    return new if view == shape else (new[0], math.prod(new[1:]))
