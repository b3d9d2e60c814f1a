"""Compute the padding, stride and sub-pixel phase of a convolution on a rescaled grid, one axis at a time.

Scope: sizes and positions. Not here: weights, and a method's number of taps (see `operators`). Imports NumPy alone.
Derivation: docs/mathematics.md, "Stay on the grid".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import RekernelError
from ..messages.arguments import check_number
from .methods import Alias, KernelMethod, TapsRule
from .operators import kernel_taps

_CLOSE = 1e-9

TYPED = 16
"""A larger number typed as a scale is taken for a size; sizes of any ratio can be given as sizes."""

PHASE_TOLERANCE = 0.25
"""In new samples. A kernel whose phase is larger gets one tap more, which leaves a smaller phase."""
_BEYOND = 0.125
"""In new samples. `optimal` gets one tap more where the phase moves an outer tap further out of the kernel than this:
of .25 samples beyond its end, 5 taps for 3 realise .04."""
_WHOLE = 1e-6  # how far a size or a stride may be from a whole number

Place = tuple[int, int, float]


@dataclass(frozen=True)
class ConvGeometry:
    """How a rescaled convolution (or pooling) runs along one axis.

    taps : kernel size
    stride : step in new input pixels (transposed: in new output pixels)
    padding : (left, right), in new pixels of the padded side (transposed: of the output); a negative number crops
    dilation : spacing of the taps; 1 unless the old taps are kept and spread
    phase : shift of the taps in new samples, in (-1/2, 1/2], which the new kernel must contain
    """

    taps: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    phase: float


def is_whole(scale: float) -> bool:
    """Whether a scale is a whole number, up to rounding.

    Examples
    --------
    >>> is_whole(2.0), is_whole(1.5)
    (True, False)
    """
    return abs(scale - round(scale)) < _CLOSE


def new_size(n: int, scale: float, *, exact: bool = False, what: str = "") -> int:
    """Pixels along an axis of `n` pixels after rescaling: n * scale, rounded to the nearest whole number, halves up.

    Every part of rekernel that needs the size of a rescaled grid asks this function, so that neighbouring layers agree.

    Parameters
    ----------
    n : int
        Old size.
    scale : float
        New pixels per old one.
    exact : bool
        Refuse a size that would have to be rounded.
    what : str
        Name of the size in that refusal, as "a patch of 7 pixels".

    Raises
    ------
    RekernelError
        With `exact`, where n * scale is not a whole number, or less than 1.

    Examples
    --------
    >>> new_size(7, 1.5), new_size(14, 1.5, exact=True)
    (11, 21)
    >>> new_size(7, 1.5, exact=True)
    Traceback (most recent call last):
    ...
    rekernel.errors.RekernelError: a size of 7 at scale 1.5 would become 10.5, not a whole number; choose another scale
    """
    new = math.floor(n * scale + 0.5 + _CLOSE)
    if exact and (abs(n * scale - new) > _WHOLE or new < 1):
        what = what or f"a size of {n}"
        raise RekernelError(
            f"{what} at scale {scale:g} would become {n * scale:g}, not a whole number; choose another scale"
        )
    return new


def output_size(n: int, k: int, stride: int = 1, padding: tuple[int, int] = (0, 0), dilation: int = 1) -> int:
    """Output pixels of a convolution on `n` input pixels.

    Examples
    --------
    >>> output_size(16, 3, 2, (1, 1))
    8
    """
    return (n + sum(padding) - dilation * (k - 1) - 1) // stride + 1


def pool_output_size(
    n: int, k: int, stride: int, padding: tuple[int, int] = (0, 0), dilation: int = 1, *, ceil_mode: bool = False
) -> int:
    """Output pixels of a pooling on `n` input pixels, by the rule of torch and ONNX.

    With `ceil_mode` the last window may hang over the right edge, if it starts inside the input or its left padding.

    Examples
    --------
    >>> pool_output_size(32, 3, 2), pool_output_size(32, 3, 2, ceil_mode=True)
    (15, 16)
    >>> pool_output_size(7, 640, 640, ceil_mode=True)
    1
    """
    if not ceil_mode:
        return output_size(n, k, stride, padding, dilation)
    count = output_size(n + stride - 1, k, stride, padding, dilation)
    return count - 1 if (count - 1) * stride >= n + padding[0] else count


def conv_phase(
    taps: int, *, k: int, stride: int = 1, padding: int = 0, dilation: int = 1,
    scale_in: float = 1.0, scale_out: float | None = None, aligned: tuple[bool, bool] = (False, False),
    offset: float = 0.0,
) -> tuple[int, float]:  # fmt: skip
    """Left padding and phase that keep a convolution of `taps` new taps centred where the old one was.

    Output m of the old convolution is centred on input coordinate m * stride - padding + dilation * (k-1)/2, and new
    pixel n lies at (n + 1/2)/scale - 1/2 of the old grid. The left padding is the whole number that brings the phase
    into (-1/2, 1/2].

    On an *aligned* grid, new pixel n lies at n/scale instead: pixel 0 stays pixel 0. Between aligned grids no stride
    moves the taps by half a pixel. `aligned` tells this for the input grid and for the output grid.
    `offset` is the distance of the arriving features from their place, in new input pixels; the taps make up for it.

    Source: ours. Derivation: docs/mathematics.md, "Stay on the grid".

    Examples
    --------
    >>> conv_phase(5, k=3, stride=2, padding=1, scale_in=2.0)
    (2, 0.5)
    >>> conv_phase(4, k=3, stride=2, padding=1, scale_in=2.0)
    (2, 0.0)
    """
    scale_out = scale_in if scale_out is None else scale_out
    new_stride = stride * scale_in / scale_out
    of_pixel_0 = [0.0 if at_0 else (s - 1) / 2 for at_0, s in zip(aligned, (scale_in, scale_out), strict=True)]
    shift = new_stride * of_pixel_0[1] - of_pixel_0[0] + scale_in * (padding - dilation * (k - 1) / 2)
    exact = (taps - 1) / 2 + shift + offset  # phase + left padding
    left = math.ceil(exact - 0.5 - _CLOSE)
    phase = exact - left
    return left, 0.0 if abs(phase) < _CLOSE else phase


def conv_geometry(
    k: int,
    *,
    method: KernelMethod | Alias = "optimal",
    taps: int | TapsRule | None = None,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    scale_in: float = 1.0,
    scale_out: float | None = None,
    size: int | None = None,
    aligned: tuple[bool, bool] = (False, False),
    offset: float = 0.0,
) -> ConvGeometry:
    """Geometry of the rescaled convolution whose output has exactly `scale_out` times the old number of pixels.

    Parameters
    ----------
    k, stride, padding, dilation : int
        Kernel size, stride, padding and dilation of the trained convolution along this axis; padding may be
        (left, right).
    method, taps
        As for `kernel_operator`: they decide the size of the new kernel, which is dense (its dilation is 1).
        Where that kernel would have a phase of half a pixel, it gets one tap more and a phase of 0.
    scale_in : float
        New input pixels per old one.
    scale_out : float, optional
        New output pixels per old one: equal to `scale_in` to supersample (the default), 1 to absorb the scale
        (the stride grows instead).
    aligned : bool
        Whether pixel 0 stays pixel 0 on the input grid and on the output grid; see `conv_phase`.
    offset : float
        Distance of the arriving features from their place, in new input pixels; the taps make up for it.
    size : int, optional
        Old input size. Without it a multiple of the stride is assumed; only the right padding depends on the size.

    Returns
    -------
    ConvGeometry

    Raises
    ------
    RekernelError
        Where the new stride is not a whole number, or the old convolution has no output.

    Examples
    --------
    >>> conv_geometry(3, padding=1, scale_in=2.0)
    ConvGeometry(taps=5, stride=1, padding=(2, 2), dilation=1, phase=0.0)
    >>> conv_geometry(3, taps=5, stride=2, padding=1, scale_in=2.0)
    ConvGeometry(taps=5, stride=2, padding=(2, 2), dilation=1, phase=0.5)
    >>> conv_geometry(16, taps=32, stride=16, scale_in=2.0, scale_out=1.0).stride  # a patch embedding absorbs
    32
    """
    for name, value in (("k", k), ("stride", stride), ("dilation", dilation), ("scale_in", scale_in)):
        check_number(value, name, "2")
    scale_out = scale_in if scale_out is None else scale_out
    left_old, right_old = (padding, padding) if isinstance(padding, int) else padding
    new_stride = _new_stride(stride, scale_in, scale_out)
    n = size if size is not None else _typical_size(k, stride, left_old + right_old, dilation)
    old_out = output_size(n, k, stride, (left_old, right_old), dilation)
    if old_out < 1:
        raise RekernelError(
            f"a convolution of {k} taps, stride {stride}, padding {padding} has no output on {n} pixels"
        )
    count, left, phase = _place(
        method, taps, k=k, stride=stride, padding=left_old, dilation=dilation, scale_in=scale_in, scale_out=scale_out,
        aligned=aligned, offset=offset,
    )  # fmt: skip
    new_in, new_out = new_size(n, scale_in), new_size(old_out, scale_out)
    least = new_stride * (new_out - 1) + count - new_in - left
    # With a stride above 1 several right paddings give the same output size. Take one equal to the left padding where
    # possible: every framework's convolution accepts equal paddings.
    right = min(max(least, left), least + new_stride - 1)
    return ConvGeometry(count, new_stride, (left, right), 1, phase)


def conv_transpose_geometry(
    k: int,
    *,
    method: KernelMethod | Alias = "optimal",
    taps: int | TapsRule | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
    scale_in: float = 1.0,
    scale_out: float | None = None,
    size: int | None = None,
    aligned: tuple[bool, bool] = (False, False),
) -> ConvGeometry:
    """Geometry of a rescaled transposed convolution: the adjoint of the convolution from its output to its input.

    The full output has (n-1) * stride + taps pixels and is cropped by `padding` on the left and right (extended where
    negative). So `padding` in the result is ConvTranspose's padding, with output_padding subtracted from the right
    entry.

    Parameters
    ----------
    k, stride, padding, output_padding, dilation : int
        Kernel size, stride, padding, output padding and dilation of the trained layer along this axis.
    method, taps, scale_in, scale_out, size, aligned
        As for `conv_geometry`; `size` is the old input size.

    Examples
    --------
    >>> conv_transpose_geometry(4, taps=8, stride=2, padding=1, scale_in=2.0)
    ConvGeometry(taps=8, stride=2, padding=(3, 3), dilation=1, phase=0.0)
    """
    scale_out = scale_in if scale_out is None else scale_out
    new_stride = _new_stride(stride, scale_out, scale_in)
    count, left, phase = _place(
        method, taps, k=k, stride=stride, padding=padding, dilation=dilation, scale_in=scale_out, scale_out=scale_in,
        aligned=(aligned[1], aligned[0]),
    )  # fmt: skip
    n = size if size is not None else max(k, 8)
    old_out = (n - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1
    new_in, new_out = new_size(n, scale_in), new_size(old_out, scale_out)
    right = (new_in - 1) * new_stride + count - left - new_out
    return ConvGeometry(count, new_stride, (left, right), 1, phase)


def pool_geometry(
    k: int,
    kind: str,
    *,
    stride: int | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    scale_in: float = 1.0,
    scale_out: float | None = None,
    size: int | None = None,
    aligned: tuple[bool, bool] = (False, False),
    offset: float = 0.0,
) -> ConvGeometry:
    """Geometry of rescaled pooling: average pooling gets a larger window, max pooling gets a dilation.

    Between aligned grids, where every layer is dilated, average pooling is dilated, too.

    Parameters
    ----------
    kind : {'max', 'avg'}
    k, stride, padding, dilation : int
        Window, stride, padding and dilation of the trained pooling; the stride is `k` by default, as in torch.
        Padding may be (left, right).
    ceil_mode : bool
        Whether the last window of the trained pooling may hang over the right edge. The new one gets the pixels that it
        reads there as right padding.
    scale_in, scale_out, size, aligned, offset
        As for `conv_geometry`. The scale must be a whole number.

    Returns
    -------
    ConvGeometry
        Pooling has no weights that could be shifted, so `phase` is the offset that remains, in new samples.

    Examples
    --------
    >>> pool_geometry(2, "avg", scale_in=2.0)
    ConvGeometry(taps=4, stride=2, padding=(1, 1), dilation=1, phase=0.0)
    >>> pool_geometry(3, "max", stride=2, padding=1, scale_in=2.0)
    ConvGeometry(taps=3, stride=2, padding=(2, 2), dilation=2, phase=0.5)
    >>> pool_geometry(3, "max", stride=2, ceil_mode=True, scale_in=2.0).padding
    (0, 3)
    """
    if kind not in ("max", "avg"):
        raise RekernelError(f"kind={kind!r} is neither 'max' nor 'avg'")
    stride = k if stride is None else stride
    spread = round(scale_in)
    if not is_whole(scale_in) or spread < 1:
        raise RekernelError(f"pooling can only be rescaled by whole numbers, not scale={scale_in:g}")
    dilated = kind == "max" or any(aligned)
    reach = dilation * (k - 1) + 1
    extent = spread * (reach - 1) + 1 if dilated else spread * reach
    left, right = (padding, padding) if isinstance(padding, int) else padding
    n = size if size is not None else _typical_size(k, stride, left + right, dilation)
    old_out = pool_output_size(n, k, stride, (left, right), dilation, ceil_mode=ceil_mode)
    if old_out < 1:
        raise RekernelError(f"a pooling of {k} pixels, stride {stride}, padding {padding} has no output on {n} pixels")
    right = max(right, stride * (old_out - 1) + reach - n - left)  # what a window that hangs over reads
    as_conv = conv_geometry(
        k, taps=extent, stride=stride, padding=(left, right), dilation=dilation,
        scale_in=scale_in, scale_out=scale_out, size=n, aligned=aligned, offset=offset,
    )  # fmt: skip
    taps, new_dilation = (k, spread * dilation) if dilated else (extent, 1)
    return ConvGeometry(taps, as_conv.stride, as_conv.padding, new_dilation, as_conv.phase)


def _place(
    method: KernelMethod | Alias, taps: int | TapsRule | None, *, k: int, dilation: int, scale_in: float, **layer: Any
) -> Place:
    """Taps, left padding and phase; one tap more than the rule says where the phase is too large for so many."""
    spread = dilation * (k - 1) + 1  # extent of the dilated kernel, zeros included: a dense kernel must cover it
    count = kernel_taps(spread, scale_in, method, taps)
    left, phase = conv_phase(count, k=k, dilation=dilation, scale_in=scale_in, **layer)
    beyond = scale_in * (spread - 1) / 2 + abs(phase) - (count - 1) / 2
    cramped = method == "optimal" and taps is None and phase and beyond > _BEYOND
    if isinstance(taps, int | np.integer) or method == "dilate" or (abs(phase) <= PHASE_TOLERANCE and not cramped):
        return count, left, phase
    left, phase = conv_phase(count + 1, k=k, dilation=dilation, scale_in=scale_in, **layer)
    return count + 1, left, phase


def _new_stride(stride: int, scale_in: float, scale_out: float) -> int:
    exact = stride * scale_in / scale_out
    if abs(exact - round(exact)) > _WHOLE or round(exact) < 1:
        raise RekernelError(
            f"stride {stride} with scale {scale_in:g} in and {scale_out:g} out would become {exact:g}; "
            f"choose scales that keep it a whole number"
        )
    return round(exact)


def _typical_size(k: int, stride: int, padding: int, dilation: int) -> int:
    needed = max(dilation * (k - 1) + 1 - padding, 1)
    return stride * math.ceil(max(needed, 8 * stride) / stride)
