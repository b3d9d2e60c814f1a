"""Make poolings of a given geometry: torch's own where these suffice, and poolings of two sides and spread taps.

Scope: modules and geometry (`ModuleChange`). Not here: what becomes of a pooling (see `planning.pooling`), and plans
(see `torch.editing.apply`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from ...plan.changes import ModuleChange
from ...planning.pool_axis import PoolAxis
from .padding import Sides, pad_sides, tuple_of

MAX_POOLS: tuple[Any, ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG_POOLS: tuple[Any, ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_CONV: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)
_MAX: tuple[Any, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVG: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


class RescaledPool(nn.Module):
    """A pooling that reads windows of `axes` and knows what its trained one read.

    It gives as many pixels at any size as the trained pooling gives on the smaller picture, times the scale. Where a
    window has no pixel to read, its neighbour answers.
    """

    def __init__(self, axes: Sequence[PoolAxis], old: Any) -> None:
        super().__init__()
        self.axes = tuple(axes)
        # What code around a pooling may ask of it. Code that pads from these numbers has to pad as before.
        by_hand = any(any(axis.by_hand) for axis in self.axes)
        told = [axis.old if by_hand else axis.new for axis in self.axes]
        self.kernel_size, self.stride = tuple(g.kernel for g in told), tuple(g.stride for g in told)
        self.padding, self.dilation = tuple(g.padding[0] for g in told), tuple(g.dilation for g in told)
        self.ceil_mode = old.ceil_mode

    def _sizes(self, x: Tensor) -> list[int]:
        """The size of the input with `more_zeros`."""
        return [n + sum(axis.more_zeros) for n, axis in zip(x.shape[-len(self.axes) :], self.axes, strict=True)]

    def _framed(self, x: Tensor, value: float) -> Tensor:
        """The input with all that the windows read around it."""
        sides = [(axis.new.padding[0], axis.right(n)) for axis, n in zip(self.axes, self._sizes(x), strict=True)]
        return pad_sides(pad_sides(x, [axis.more_zeros for axis in self.axes]), sides, value=value)

    def _filled(self, out: Tensor, x: Tensor) -> Tensor:
        """The output, with neighbours in the place of outputs that have nothing to read."""
        for number, (axis, n) in enumerate(zip(self.axes, self._sizes(x), strict=True)):
            if axis.unseen(n):
                out = out.index_select(number - len(self.axes), axis.seen(_outputs(axis, n, out), n))
        return out

    def _windows(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Kernel, stride and dilation, each with a number per axis."""
        new = [axis.new for axis in self.axes]
        return tuple(g.kernel for g in new), tuple(g.stride for g in new), tuple(g.dilation for g in new)

    def extra_repr(self) -> str:
        taps, steps, spread = self._windows()
        sides, hands = (tuple(s) for s in zip(*((a.new.padding, a.by_hand) for a in self.axes), strict=True))
        more = f", by_hand={hands}" if any(map(any, hands)) else ""
        return f"kernel_size={taps}, stride={steps}, sides={sides}, dilation={spread}{more}"


class RescaledMaxPool(RescaledPool):
    """A max pooling whose padding, -inf, differs between its sides."""

    def __init__(self, axes: Sequence[PoolAxis], old: Any) -> None:
        super().__init__(axes, old)
        self.return_indices = bool(old.return_indices)

    def forward(self, x: Tensor) -> Any:
        framed = self._framed(x, float("-inf"))
        taps, step, spread = self._windows()
        out = _MAX[len(self.axes) - 1](framed, taps, step, 0, spread, return_indices=self.return_indices)
        if not self.return_indices:
            return self._filled(out, x)
        values, places = out
        return self._filled(values, x), self._filled(self._in_input(places, framed, x), x)

    def _in_input(self, places: Tensor, framed: Tensor, x: Tensor) -> Tensor:
        """Flat positions in the input, from those in the framed input."""
        result, rest, below = torch.zeros_like(places), places, 1
        for axis, ahead in zip(range(-1, -len(self.axes) - 1, -1), self.axes[::-1], strict=True):
            at = rest % framed.shape[axis] - ahead.new.padding[0] - ahead.more_zeros[0]
            result = result + at.clamp(0, x.shape[axis] - 1) * below
            rest, below = rest // framed.shape[axis], below * x.shape[axis]
        return result


class RescaledAvgPool(RescaledPool):
    """An average pooling whose padding differs between its sides, or whose taps are spread; torch has neither.

    Parameters
    ----------
    counts : bool
        Whether the padding of the trained pooling counts as pixels. What lies beyond it never counts, so the average of
        a constant is that constant wherever it was before.
    divisor : float, optional
        The number to divide a sum by, instead of the number of pixels that count.
    """

    def __init__(self, axes: Sequence[PoolAxis], old: Any, counts: bool, divisor: float | None) -> None:
        super().__init__(axes, old)
        self.count_include_pad, self.divisor_override = counts, divisor

    def forward(self, x: Tensor) -> Tensor:
        taps, step, spread = self._windows()
        out = _means(self._framed(x, 0.0), taps, step, spread)
        if self.divisor_override:
            return self._filled(out * (math.prod(taps) / self.divisor_override), x)
        for number, (axis, n) in enumerate(zip(self.axes, self._sizes(x), strict=True), 1):
            if axis.overhangs(n, padding=self.count_include_pad):
                counted = axis.counted(_outputs(axis, n, out), n, padding=self.count_include_pad)
                share = axis.new.kernel / counted.clamp(min=1).to(out.dtype)
                out = out * share.reshape(-1, *(1 for _ in self.axes[number:]))
        return self._filled(out, x)


def _outputs(axis: PoolAxis, n: int, like: Tensor) -> Tensor:
    """The numbers of the outputs along an axis."""
    return torch.arange(axis.count(n), device=like.device)


def _means(x: Tensor, taps: tuple[int, ...], step: tuple[int, ...], spread: tuple[int, ...]) -> Tensor:
    dims = len(taps)
    if all(d == 1 for d in spread):
        means: Tensor = _AVG[dims - 1](x, taps, step)
        return means
    weight = x.new_full((1, 1, *taps), 1 / math.prod(taps))
    flat: Tensor = _CONV[dims - 1](x.reshape(-1, 1, *x.shape[-dims:]), weight, None, step, 0, spread)
    return flat.reshape(*x.shape[:-dims], *flat.shape[2:])


def pool(old: Any, change: ModuleChange) -> nn.Module:
    """A pooling like `old` with the new geometry of a change.

    It is of torch's own class where that class has this geometry, and divides by the right number at the border.

    Parameters
    ----------
    old : nn.MaxPool1d, nn.AvgPool1d, ...
        The trained pooling, or one of a subclass whose forward method pads and pools: the old geometry of the change
        then holds that padding, too.

    Examples
    --------
    >>> from rekernel import AxisGeometry
    >>> trained, double = AxisGeometry(2, 2, (0, 0)), AxisGeometry(4, 2, (1, 1))
    >>> pool(nn.AvgPool1d(2), ModuleChange("0", "avg-pool", "", (trained,), (double,)))
    AvgPool1d(kernel_size=(4,), stride=(2,), padding=(1,))
    """
    count = len(change.geometry)
    hands: Sides = change.by_hand or ((0, 0),) * count
    axes = [
        PoolAxis(before, after, bool(old.ceil_mode), hand)
        for before, after, hand in zip(change.geometry, change.new_geometry, hands, strict=True)
    ]
    simple, known = _simple(axes), next(known for known in (*MAX_POOLS, *AVG_POOLS) if isinstance(old, known))
    made: nn.Module
    if known in MAX_POOLS:
        if not simple:
            return RescaledMaxPool(axes, old)
        made = known(*simple, tuple(axis.new.dilation for axis in axes), old.return_indices, old.ceil_mode)
        return made
    padded = any(any(axis.old.padding) for axis in axes)
    # Zeros that the forward method of a subclass adds are pixels to the pooling.
    counts = padded and (bool(old.count_include_pad) or not any(tuple_of(old.padding, count)))
    divisor = getattr(old, "divisor_override", None)  # it grows by as much as the window
    divisor = divisor and divisor * math.prod(a.new.kernel for a in axes) / math.prod(a.old.kernel for a in axes)
    exact = divisor or not counts or all(axis.new.padding == axis.old_padding for axis in axes)
    if simple and exact and all(axis.new.dilation == 1 for axis in axes):
        more = {"divisor_override": round(divisor)} if divisor else {}
        made = known(*simple, old.ceil_mode, counts, **more)
        return made
    return RescaledAvgPool(axes, old, counts, divisor)


def _simple(axes: Sequence[PoolAxis]) -> tuple[tuple[int, ...], ...] | None:
    """Kernel, stride and padding of a pooling of torch's own class; None if that class does not have this geometry."""
    new = [axis.new for axis in axes]
    even = all(g.padding[0] == g.padding[1] >= 0 for g in new)
    small = all(2 * g.padding[0] <= g.kernel for g in new)  # torch's limit, with or without dilation
    # Torch's rule for a window that hangs over gives the right number of pixels where their number stays.
    hangs = any(axis.hangs_over and axis.grows > 1 for axis in axes)
    if not even or not small or hangs or any(any(axis.by_hand) for axis in axes):
        return None
    return tuple(g.kernel for g in new), tuple(g.stride for g in new), tuple(g.padding[0] for g in new)
