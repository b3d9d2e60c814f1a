"""Apply resampling matrices to weights of any framework: convolutions, and linear layers that read or write a grid.

Scope: axes, layouts and flattening. Not here: the entries of a matrix (see `operators`), the arithmetic on an array of
some framework (see `products`). Imports NumPy alone.
Derivation: docs/mathematics.md, "A resampling is a matrix".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from ..messages.arguments import check_array, check_sizes, kind_of, short
from ..messages.warn import tell
from .geometry import TYPED
from .methods import KEYS_A, SMOOTHNESS, Alias, Gain, GridMethod, KernelMethod, TapsRule, canonical_method
from .operators import grid_operator, kernel_operator
from .plain_tensors import check_weight
from .products import apply_matrices
from .untraced import untraced

Order = Literal["channels-first", "channels-last"]
ORDERS: tuple[Order, ...] = get_args(Order)
"""The orders in which a grid is flattened: C,H,W and H,W,C."""
Side = Literal["in", "out"]
SIDES: tuple[Side, ...] = get_args(Side)
"""Which axis of a matrix is a grid."""
MatrixLayout = Literal["OI", "IO"]
MATRIX_LAYOUTS: tuple[MatrixLayout, ...] = get_args(MatrixLayout)
"""(out, in) as in PyTorch, and (in, out) as in JAX and Keras."""
_SPATIAL = "DHW"


@untraced
def resample(w: Any, operators: Mapping[int, NDArray[np.floating[Any]]], *, allow_cast: bool = False) -> Any:
    """Multiply axes of `w` by matrices: out[..., i, ...] = sum_j R[i, j] w[..., j, ...] for each axis given.

    Small adjoining axes are multiplied by one Kronecker product; large axes are multiplied one by one.

    Parameters
    ----------
    w : array of NumPy, PyTorch, JAX or CuPy
        Any shape; float16, bfloat16, float32 or float64.
    operators : {axis: (new size, old size) ndarray}
        Negative axes count from the end.
    allow_cast : bool
        Accept integer, float8 and other dtypes: they are computed in float32 and rounded back to their dtype. Integers
        are clipped to their range; a value that a float8 cannot hold is an error.

    Returns
    -------
    array like `w`
        Same framework, device and dtype. Sums are accumulated in float32, or in float64 for a float64 array. Gradients
        flow through a PyTorch or JAX array. An identity matrix leaves its axis unchanged to the bit. The result never
        shares memory with a mutable `w`.

    Raises
    ------
    RekernelError
        For an axis out of range or given twice, a matrix that does not fit, or a dtype that is not allowed; and for a
        tensor that is not a dense block of numbers in this process: sparse, nested, quantised, a DTensor.

    Examples
    --------
    >>> w = np.ones((4, 2, 3), dtype=np.float16)
    >>> resample(w, {-1: kernel_operator(3, 2.0, "linear")}).shape
    (4, 2, 7)
    """
    check_weight(w)
    if not isinstance(operators, Mapping):
        raise RekernelError(
            f"operators is {kind_of(operators)}, not a dict of matrices by axis; pass one: {{2: kernel_operator(3, 2)}}"
        )
    shape = tuple(w.shape)
    matrices: dict[int, NDArray[np.float64]] = {}
    for axis, operator in operators.items():
        if not isinstance(axis, int | np.integer) or not -len(shape) <= axis < len(shape):
            raise RekernelError(f"axis {short(axis)} is not one of the {len(shape)} axes of an array of shape {shape}")
        position = axis % len(shape)
        if position in matrices:
            raise RekernelError(f"axis {position} of an array of shape {shape} was given two operators")
        check_array(operator, f"operators[{axis}]")
        matrix = np.asarray(operator, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != shape[position]:
            raise RekernelError(
                f"an operator of shape {matrix.shape} does not fit axis {axis} of an array of shape {shape}; "
                f"it needs {shape[position]} columns"
            )
        matrices[position] = matrix
    return apply_matrices(w, matrices, allow_cast=allow_cast)


@untraced
def resample_conv(
    w: Any,
    scale: float | Sequence[float],
    method: KernelMethod | Alias = "optimal",
    *,
    layout: str | None = None,
    taps: int | TapsRule | Sequence[int | TapsRule | None] | None = None,
    gain: Gain = "dc",
    phase: float | Sequence[float] = 0.0,
    a: float = KEYS_A,
    smoothness: float = SMOOTHNESS,
    allow_cast: bool = False,
) -> Any:
    """Rescale a convolution's kernels, along every spatial axis.

    Parameters
    ----------
    w : array of NumPy, PyTorch, JAX or CuPy
        The weight of a 1-D, 2-D or 3-D convolution. Depthwise, grouped and transposed convolutions differ only in
        their O and I axes, which do not change.
    scale, taps, phase : one value, or one per spatial axis in the layout's order
        As for `kernel_operator`. An axis with one tap is pointwise and stays as it is, unless a phase or a number
        of taps is given for it.
    method, gain, a, smoothness
        As for `kernel_operator`.
    layout : str
        One letter for each axis: O and I are channels, the others are spatial. 'OIHW' is PyTorch's ('IOHW' for its
        transposed convolutions), 'HWIO' is JAX's and TensorFlow's, 'OHWI' is MLX's; 1-D and 3-D layouts have one
        spatial letter fewer or more. PyTorch's layout is the default.
    allow_cast : bool
        As for `resample`.

    Returns
    -------
    array like `w`, same layout and dtype

    Raises
    ------
    RekernelError
        As `kernel_operator` and `resample`; also for a layout that does not fit.

    Warns
    -----
    RekernelWarning
        For a scale of 1 along every axis, and for an `a` or a `smoothness` that the method does not have.

    Examples
    --------
    >>> resample_conv(np.zeros((8, 4, 3, 3), np.float32), scale=2).shape
    (8, 4, 5, 5)
    >>> resample_conv(np.zeros((3, 3, 4, 8), np.float32), (2, 1), "linear", layout="HWIO").shape
    (7, 3, 4, 8)
    """
    check_weight(w)
    axes = spatial_axes(tuple(w.shape), layout)
    scales, all_taps, phases = (
        per_axis(value, len(axes), name) for value, name in ((scale, "scale"), (taps, "taps"), (phase, "phase"))
    )
    _refuse_size(scales)
    operators = {}
    for axis, s, t, p in zip(axes, scales, all_taps, phases, strict=True):
        k = int(w.shape[axis])
        if k == 1 and p == 0 and not isinstance(t, int | np.integer):
            continue
        operators[axis] = kernel_operator(k, s, method, taps=t, gain=gain, phase=p, a=a, smoothness=smoothness)
    tell(_without_effect(method, scales, phases, a, smoothness))
    return resample(w, operators, allow_cast=allow_cast)


def _refuse_size(scales: Sequence[Any]) -> None:
    """Raise for a scale that must be the size of an image."""
    for s in scales:
        if isinstance(s, int | float) and TYPED < s < np.inf:
            raise RekernelError(
                f"scale={s:g} is new pixels per old pixel, and {TYPED} is the limit here; for an image of {s:g} pixels "
                f"pass the new size divided by the trained one: scale={s:g} / 224, where that is 224"
            )


@untraced
def resample_linear(
    w: Any,
    grid: Sequence[int],
    new_grid: Sequence[int],
    method: GridMethod | Alias = "optimal",
    *,
    side: Side = "in",
    order: Order = "channels-first",
    layout: MatrixLayout = "OI",
    gain: Gain | None = None,
    a: float = KEYS_A,
    smoothness: float = SMOOTHNESS,
    allow_cast: bool = False,
) -> Any:
    """Rescale a fully-connected weight whose inputs, or outputs, are the pixels of a flattened grid.

    Parameters
    ----------
    w : array of NumPy, PyTorch, JAX or CuPy
        (out, in) weight, or the (out,) bias of a layer whose output is the grid.
    grid, new_grid : (C, *spatial) sequences
        The grid that was flattened into the axis, before and after; C must not change. A plain width is the grid
        (1, width).
    method, a, smoothness
        As for `grid_operator`.
    side : {'in', 'out'}
        Which axis is the grid. The default gain is 'dc' for inputs, which the weight reads, and 'none' for outputs,
        which are values on the grid.
    order : {'channels-first', 'channels-last'}
        Order in which the grid was flattened: C,H,W or H,W,C. The argument `grid` has C first in both cases.
    layout : {'OI', 'IO'}
        (out, in) as in PyTorch, or (in, out) as in JAX and Keras.
    gain : {'dc', 'ratio', 'none'}, optional
        Overrides the default for the side.
    allow_cast : bool
        As for `resample`.

    Returns
    -------
    array like `w`: (out, C*H'*W') for side 'in', (C*H'*W', in) for side 'out'

    Raises
    ------
    RekernelError
        As `grid_operator` and `resample`; also where the grid does not have as many cells as the axis.

    Examples
    --------
    >>> resample_linear(np.ones((10, 3 * 16 * 16)), (3, 16, 16), (3, 32, 32), "linear").shape
    (10, 3072)
    """
    check_weight(w)
    shape = tuple(w.shape)
    grid, new_grid = check_sizes(grid, "grid", "(3, 16, 16)"), check_sizes(new_grid, "new_grid", "(3, 32, 32)")
    if side not in SIDES:
        raise RekernelError(f"side={side!r} is neither 'in' nor 'out'")
    if layout not in MATRIX_LAYOUTS:
        raise RekernelError(f"layout={layout!r} is neither 'OI' nor 'IO'")
    if len(shape) not in (1, 2) or (len(shape) == 1 and side == "in"):
        raise RekernelError(
            f"side={side!r} needs a (out, in) weight{' or an (out,) bias' * (side == 'out')}, not {shape}"
        )
    axis = 0 if len(shape) == 1 else layout.index("I" if side == "in" else "O")
    cells, new_cells, first = flattened_grid(shape[axis], grid, new_grid, order)
    operators = {
        axis + first + i: grid_operator(
            n, m, method, gain=gain or ("dc" if side == "in" else "none"), a=a, smoothness=smoothness
        )
        for i, (n, m) in enumerate(zip(tuple(grid)[1:], tuple(new_grid)[1:], strict=True))
    }
    unflattened = w.reshape(shape[:axis] + cells + shape[axis + 1 :])
    out = resample(unflattened, operators, allow_cast=allow_cast)
    return out.reshape((*shape[:axis], math.prod(new_cells), *shape[axis + 1 :]))


def _without_effect(
    method: str, scales: Sequence[float], phases: Sequence[float], a: float, smoothness: float
) -> Iterator[str]:
    """Notes about arguments that change nothing."""
    name = canonical_method(method)
    if all(s == 1 for s in scales) and not any(phases):
        yield "the scale is 1, so nothing changes; pass new pixels per old pixel, such as scale=2"
        return
    if a != KEYS_A and name != "cubic":
        yield f"a={a:g} has no effect: the method is {name!r}; a belongs to method='cubic'"
    if smoothness != SMOOTHNESS and not name.startswith("optimal"):
        yield f"smoothness={smoothness:g} has no effect: the method is {name!r}; smoothness belongs to method='optimal'"


def spatial_axes(shape: tuple[int, ...], layout: str | None = None) -> tuple[int, ...]:
    """Positions of the spatial axes of a convolution weight, in the layout's order.

    Examples
    --------
    >>> spatial_axes((8, 4, 3, 3)), spatial_axes((3, 3, 4, 8), "HWIO")
    ((2, 3), (0, 1))
    """
    if layout is None:
        if not 3 <= len(shape) <= 5:
            raise RekernelError(f"a convolution weight has 3 to 5 axes, not {len(shape)}: shape {shape}")
        layout = "OI" + _SPATIAL[5 - len(shape) :]
    if (
        not isinstance(layout, str)
        or len(layout) != len(shape)
        or len(set(layout)) != len(layout)
        or not {"O", "I"} < set(layout) <= set("OI" + _SPATIAL)
    ):
        raise RekernelError(
            f"layout={layout!r} does not fit an array of shape {shape}; "
            f"write one letter for each axis, O and I once each, the others from {_SPATIAL}, such as 'OIHW' or 'HWIO'"
        )
    return tuple(i for i, letter in enumerate(layout) if letter in _SPATIAL)


def per_axis(value: Any, count: int, name: str) -> tuple[Any, ...]:
    """One value repeated, or a sequence checked to hold one for each of `count` axes.

    Examples
    --------
    >>> per_axis(2.0, 2, "scale"), per_axis((2, 1), 2, "scale")
    ((2.0, 2.0), (2, 1))
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (value,) * count
    if len(value) != count:
        raise RekernelError(
            f"{name}={tuple(value)} has {len(value)} entries for {count} spatial axes; give one or {count}"
        )
    return tuple(value)


def flattened_grid(
    size: int, grid: Sequence[int], new_grid: Sequence[int], order: str
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The old and the new grid in the order of flattening, and the position of their first spatial axis.

    Examples
    --------
    >>> flattened_grid(48, (3, 4, 4), (3, 8, 8), "channels-last")
    ((4, 4, 3), (8, 8, 3), 0)
    """
    if order not in ORDERS:
        raise RekernelError(f"order={order!r} is not one of {', '.join(ORDERS)}")
    old, new = tuple(grid), tuple(new_grid)
    if len(old) < 2 or len(old) != len(new) or old[0] != new[0]:
        raise RekernelError(
            f"grid={old} and new_grid={new} must both be (C, *spatial) with the same C and as many axes"
        )
    if math.prod(old) != size:
        raise RekernelError(f"an axis of {size} does not fit grid={old}, which has {math.prod(old)} cells")
    if order == "channels-first":
        return old, new, 1
    return (*old[1:], old[0]), (*new[1:], new[0]), 0
