"""Measure how far a rescaled network at the new size is from the original on the reduced input.

Scope: two modules, an input, and the scale in a plan. Not here: the error of single layers (see
`torch.measure.compare`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import Option, RekernelError
from ...messages.arguments import check_sizes
from ...messages.warn import tell
from ...plan.plan import Plan
from ...resampling.arrays import per_axis, resample
from ...resampling.operators import grid_operator
from ...text import dims
from ..checked_arguments import check_module, check_tensor
from ..editing.apply import PLAN
from ..running import Forward, run
from ..surroundings import own_precision
from ..tracing.eval_mode import evaluating
from ..tracing.tensor_state import first_tensor

NEW_SIZE = Option(
    "pass inputs of the new size, which are reduced to the trained one for the original",
    "check that --input is the trained size",
)
"""What to try where a model does not run."""


def reduce_grid(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Area-average the spatial axes of `x` (N, C, *spatial) to `size`.

    Examples
    --------
    >>> reduce_grid(torch.tensor([[[1.0, 3.0, 5.0, 7.0]]]), (2,)).tolist()
    [[[2.0, 6.0]]]
    """
    operators = {}
    size = check_sizes(size, "size", "(224, 224)")
    for axis, n in enumerate(size, start=2):
        old = int(x.shape[axis])
        if old % n == 0:  # a plain mean, since the matrix for a long signal is large
            x = x.reshape(*x.shape[:axis], n, old // n, *x.shape[axis + 1 :]).mean(axis + 1)
        else:
            operators[axis] = grid_operator(old, n, "area", gain="none")
    reduced: Tensor = resample(x, operators) if operators else x
    return reduced


def equivariance_error(
    model: nn.Module,
    rescaled: nn.Module,
    x: Tensor,
    *,
    size: tuple[int, ...] | None = None,
    forward: Forward | None = None,
) -> float:
    """Relative error of D(rescaled(x)) against model(D x), D the area average to the trained size.

    Needs no labels. 0 is perfect; an untouched network that breaks at the new size is near or above 1.

    Parameters
    ----------
    model : nn.Module
        The original.
    rescaled : nn.Module
        The module that `rescale` or `load` returned; its plan holds the scale.
    x : (N, C, *spatial) Tensor
        Inputs at the new size; for a generator, (N, Z) latent vectors, which have no size.
    size : tuple of int, optional
        The trained size; by default the size of `x` divided by the scale in the plan.
    forward : callable, optional
        How to run a model on a batch, `forward(model, x)`, for models that take more than one image; by default
        `model(x)`. The first tensor of what it returns is compared.

    Returns
    -------
    float
        ||D y' - y|| / ||y||, both networks in evaluation mode.

    Raises
    ------
    RekernelError
        If a network does not run at its size, or if the outputs cannot be compared.

    Warns
    -----
    RekernelWarning
        If `x` has the trained size, and `size` does not say otherwise.

    Examples
    --------
    >>> from rekernel.torch import rescale
    >>> model = nn.Conv2d(1, 1, 3, padding=1)
    >>> x = torch.ones(1, 1, 16, 16)
    >>> equivariance_error(nn.Identity(), nn.Identity(), x, size=(8, 8))
    0.0
    >>> model = nn.Bilinear(4, 4, 2)  # takes two inputs
    >>> equivariance_error(model, model, torch.ones(1, 4), size=(), forward=lambda model, x: model(x, x))
    0.0
    """
    check_module(model)
    check_module(rescaled, "rescaled")
    check_tensor(x)
    if size is None and x.ndim == 2 and len(_traced_size(rescaled)) > 1:
        size = ()
    if size is None:
        scales = plan_scales(rescaled, x.ndim - 2)
        size = tuple(round(n / s) for n, s in zip(x.shape[2:], scales, strict=True))
        tell(_trained_size_note(tuple(x.shape[2:]), _traced_size(rescaled), scales))
    with own_precision(), evaluating(model, rescaled), torch.no_grad():
        small = answer(model, reduce_grid(x, size), "the original", forward)
        large = on_the_grid_of(answer(rescaled, x, "the rescaled model", forward), small)
    return float((large - small).norm() / small.norm().clamp_min(1e-30))


def _trained_size_note(given: Sequence[int], trained: Sequence[int], scales: Sequence[float]) -> list[str]:
    """A note about inputs of the trained size, on which the original would be measured at a smaller one."""
    if tuple(given) != tuple(trained) or all(s == 1 for s in scales):
        return []
    new = [round(n * s) for n, s in zip(given, scales, strict=True)]
    less = [round(n / s) for n, s in zip(given, scales, strict=True)]
    return [
        f"x has {dims(given)} pixels, the trained size, so the original sees {dims(less)}; pass inputs of the new "
        f"size, {dims(new)}"
    ]


def answer(model: nn.Module, x: Tensor, which: str, forward: Forward | None) -> Tensor:
    """The first tensor that a model returns, in floating point.

    Raises
    ------
    RekernelError
        If the model does not run on `x`, or returns no tensor.
    """
    output = run(model, x, forward, which, NEW_SIZE)
    found = first_tensor(output)
    if found is None:
        raise RekernelError(f"the model returned {type(output).__name__} without a tensor; nothing can be compared")
    return found if found.is_floating_point() else found.float()


def on_the_grid_of(large: Tensor, small: Tensor) -> Tensor:
    """Answers at the new size, averaged to the grid of the answers at the trained size.

    Raises
    ------
    RekernelError
        If the two cannot be compared.

    Examples
    --------
    >>> on_the_grid_of(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 1)).tolist()
    [[[2.0]]]
    """
    if large.shape == small.shape:
        return large
    if large.ndim < 3 or large.ndim != small.ndim or large.shape[:2] != small.shape[:2]:
        raise RekernelError(
            f"the outputs, {tuple(small.shape)} and {tuple(large.shape)}, cannot be compared; compare layers "
            f"instead (rekernel.torch.layer_errors)"
        )
    return reduce_grid(large, tuple(small.shape[2:]))


def plan_scales(rescaled: nn.Module, count: int) -> tuple[float, ...]:
    """New pixels per old pixel along each of `count` axes, from the plan of a rescaled or loaded module.

    Raises
    ------
    RekernelError
        For a module without a plan.
    """
    plan: Plan | None = getattr(rescaled, PLAN, None)
    if plan is None:
        raise RekernelError("the rescaled model has no plan to tell its scale; pass size=, the trained size")
    return tuple(per_axis(plan.scale, count, "scale"))


def _traced_size(rescaled: nn.Module) -> tuple[int, ...]:
    """The grid a rescaled module was traced at; of a generator, the one it draws."""
    plan: Plan | None = getattr(rescaled, PLAN, None)
    return plan.size if plan is not None else ()
