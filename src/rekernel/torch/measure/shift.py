"""Measure how much the answer of a network changes when the picture moves.

Scope: one module and its input. Not here: a rescaled network against its original (see `torch.measure.equivariance`).

A strided layer that keeps its stride on a finer grid computes the trained network on moved pictures, too: with a total
stride of T and a scale of s, on pictures moved by T/s, 2T/s, ... trained pixels (docs/mathematics.md). So an original
that changes its answer when the picture moves loses by supersampling, and no labels are needed to see it. This measure
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import Option, RekernelError
from ...messages.arguments import check_number
from ...resampling.arrays import per_axis
from ..checked_arguments import check_module, check_tensor
from ..running import Forward, arguments, run
from ..surroundings import own_precision, own_tensors
from ..tracing.eval_mode import evaluating
from ..tracing.layer_call import LayerCall
from ..tracing.run import trace
from ..tracing.tensor_state import first_tensor
from .equivariance import reduce_grid

_CLOSE = 1e-6
_TRAINED_SIZE = Option("pass pictures of the trained size, or size=", "check that --input is the trained size")


@dataclass(frozen=True)
class Shift:
    """One move of the picture, and what it did.

    axis : spatial axis, from 0
    pixels : trained pixels, negative towards the start of the axis
    change : ||y' - y|| / ||y||, where y' is the answer to the moved picture; None if not computed
    agreement : share of pictures whose largest output stays the same; None for other outputs than (N, classes)
    """

    axis: int
    pixels: float
    change: float | None
    agreement: float | None


@dataclass(frozen=True)
class ShiftSensitivity:
    """What `shift_sensitivity` measured.

    shifts : one `Shift` for each direction along each axis
    note : why a change was not computed; empty otherwise
    """

    shifts: tuple[Shift, ...]
    note: str = ""

    @property
    def change(self) -> float | None:
        """The mean of the computed changes; None where there are none."""
        return _mean([shift.change for shift in self.shifts])

    @property
    def agreement(self) -> float | None:
        """The mean of the agreements; None for a network that is not a classifier."""
        return _mean([shift.agreement for shift in self.shifts])


def shift_sensitivity(
    model: nn.Module,
    x: Tensor,
    pixels: float | Sequence[float] = 1,
    *,
    size: tuple[int, ...] | None = None,
    forward: Forward | None = None,
) -> ShiftSensitivity:
    """Measure how much `model` changes its answer when the picture moves by `pixels`. Needs no labels.

    The picture moves along each axis in both directions, circularly: what leaves on one side enters on the other. So no
    part of the picture is lost, and a network that is exactly shift-invariant (circular padding, strides of 1, global
    pooling) has a change of 0. (The alternative is to repeat the edge. At one pixel its agreements were within 4 points
    of these on nine classifiers.)

    Parameters
    ----------
    model : nn.Module
        The original network, before rescaling. It is run in evaluation mode.
    x : (N, C, *spatial) Tensor
        Pictures of the trained size, or larger ones with `size`.
    pixels : float, or one per spatial axis
        How far the picture moves, in pixels of the trained size. 0 leaves out an axis.
    size : tuple of int, optional
        The trained size. `x` is moved first and then reduced to it, so parts of a trained pixel are possible.
    forward : callable, optional
        As for `equivariance_error`.

    Returns
    -------
    ShiftSensitivity
        `agreement` is the share of top-1 answers that stay, for outputs (N, classes); `change` is the relative change
        of the output. An output that is a grid is compared after it is moved along. That needs a shift of a whole
        number of output pixels; other shifts are not computed, and `note` says so.

    Raises
    ------
    RekernelError
        If `x` has no spatial axis, a shift is not a whole number of its pixels, or the model does not run.

    Examples
    --------
    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> shift_sensitivity(mean, x).change
    0.0
    >>> corner = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))     # reads each pixel with another weight
    >>> shift_sensitivity(corner, x).change > 0.1
    True
    """
    check_module(model)
    check_tensor(x)
    for step in per_axis(pixels, max(x.ndim - 2, 1), "pixels"):
        check_number(step, "pixels", "1")
    if x.ndim < 3:
        raise RekernelError(f"x has shape {tuple(x.shape)} without a spatial axis; pass pictures (N, C, *spatial)")
    axes = x.ndim - 2
    trained = tuple(x.shape[2:]) if size is None else tuple(size)
    if len(trained) != axes or any(n < m for n, m in zip(x.shape[2:], trained, strict=True)):
        raise RekernelError(f"size={trained} is not a size to which x, {tuple(x.shape)}, can be reduced")
    moves = [
        (axis, sign * step)
        for axis, (step, old, new) in enumerate(
            zip(per_axis(pixels, axes, "pixels"), trained, x.shape[2:], strict=True)
        )
        if _whole_pixels(step, old, new)
        for sign in (1, -1)
    ]
    with own_precision(), evaluating(model), torch.no_grad():
        y = _answer(model, reduce_grid(x, trained), forward)
        invariant = y.ndim == 2 or (y.ndim == x.ndim and all(n == 1 for n in y.shape[2:]))
        grid = y.ndim == x.ndim and not invariant
        shifts, notes = [], []
        for axis, step in moves:
            n, out = trained[axis], int(y.shape[2 + axis]) if grid else 0
            along = step * out / n
            if grid and out > 1 and abs(along - round(along)) > _CLOSE:
                shifts.append(Shift(axis, step, None, None))
                notes.append(f"a shift by {abs(step):g} of {n} pixels moves an output of {out} by {abs(along):.3g}")
                continue
            moved = torch.roll(x, round(step * x.shape[2 + axis] / n), 2 + axis)
            other = _answer(model, reduce_grid(moved, trained), forward)
            expected = torch.roll(y, round(along), 2 + axis) if grid and out > 1 else y
            change = float((other - expected).norm() / y.norm().clamp_min(1e-30))
            same = float((other.argmax(1) == y.argmax(1)).double().mean()) if invariant and y.shape[1] > 1 else None
            shifts.append(Shift(axis, step, change, same))
    return ShiftSensitivity(tuple(shifts), "; ".join(dict.fromkeys(notes)))


def total_stride(model: nn.Module, x: Any, *, forward: Forward | None = None) -> tuple[int, ...]:
    """The product of the strides in front of the coarsest grid of a network, along each spatial axis of the image.

    Parameters
    ----------
    model : nn.Module
        The original network.
    x : (N, C, *spatial) Tensor, tuple of arguments, or dict of keyword arguments
        An input of the trained size; its values do not matter.
    forward : callable, optional
        As for `equivariance_error`.

    Raises
    ------
    RekernelError
        If the model does not run on `x`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> total_stride(model, torch.zeros(1, 1, 14, 14))
    (4, 4)
    """
    check_module(model)
    if forward is not None:
        model, x = _Run(model, forward), (x,)
    args, kwargs = arguments(x)
    with own_tensors():
        seen = trace(model, args, kwargs)
    none = (1.0,) * len(seen.size)
    reached: dict[int, tuple[float, ...]] = {0: none}
    for call in seen.calls:
        before = tuple(max(steps) for steps in zip(none, *(reached.get(i, none) for i in call.sources), strict=True))
        reached[call.index] = before
        if len(call.size) != len(none) or len(call.out_size) != len(none):
            continue
        if call.kind in ("conv", "max-pool", "avg-pool") and max(call.out_size) > 1:
            reached[call.index] = tuple(b * s for b, s in zip(before, _strides(model, call), strict=True))
        elif call.kind in ("conv-transpose", "upsample"):
            steps = [max(1, round(m / n)) for n, m in zip(call.size, call.out_size, strict=True)]
            reached[call.index] = tuple(b / s for b, s in zip(before, steps, strict=True))
    return tuple(round(max(steps)) for steps in zip(*reached.values(), strict=True))


class _Run(nn.Module):
    """A model and the way in which its caller runs it."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model, self._run = model, forward

    def forward(self, x: Any) -> Any:
        return self._run(self.model, x)


def _strides(model: nn.Module, call: LayerCall) -> tuple[float, ...]:
    """The strides of a convolution or pooling: those of its module, and of a function call the ratio of the grids."""
    module = model.get_submodule(call.module)
    told = getattr(module, "stride", None)
    if told is not None and hasattr(module, "kernel_size"):
        return per_axis(told, len(call.size), "stride")
    pads = call.by_hand or ((0, 0),) * len(call.size)
    return tuple(max(1, round((n - sum(pad)) / m)) for n, m, pad in zip(call.size, call.out_size, pads, strict=True))


def _whole_pixels(step: float, old: int, new: int) -> bool:
    """Whether there is something to move; raise if the step is not whole, or moves the whole picture."""
    pixels = step * new / old
    if not step:
        return False
    if abs(pixels - round(pixels)) > _CLOSE or not 0 < round(pixels) < new:
        raise RekernelError(
            f"pixels={step:g} is {pixels:.3g} pixels of an axis of x that has {new} (its trained size is {old}); pass "
            f"a shift that is a whole number of them, between 1 and {new - 1}"
        )
    return True


def _answer(model: nn.Module, x: Tensor, forward: Forward | None) -> Tensor:
    found = first_tensor(run(model, x, forward, "the model", _TRAINED_SIZE))
    if found is None:
        raise RekernelError(f"{type(model).__name__} returned no tensor; nothing can be compared")
    return found.float() if not found.is_floating_point() else found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
