"""Compare a rescaled network with its original layer by layer: the equivariance error of every layer.

Scope: two modules with the same layer names, and an input. Not here: the error of the whole network (see
`torch.measure.equivariance`).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checked_arguments import check_module, check_tensor
from ..running import Forward, run
from ..surroundings import own_precision
from ..tracing.eval_mode import evaluating
from .equivariance import NEW_SIZE, reduce_grid


@dataclass(frozen=True)
class LayerError:
    """The error of one layer.

    name, kind : path and class of the layer in the original
    size, new_size : shapes of its output in the original and in the rescaled network, without the batch axis
    error : ||D y' - y|| / ||y||; y and y' are these outputs, and D averages y' over areas to the grid of y
    """

    name: str
    kind: str
    size: tuple[int, ...]
    new_size: tuple[int, ...]
    error: float


def layer_errors(
    model: nn.Module, rescaled: nn.Module, x: Tensor, size: tuple[int, ...], *, forward: Forward | None = None
) -> list[LayerError]:
    """Run the original on the reduced input and the rescaled model on `x`, and compare layer by layer.

    Parameters
    ----------
    model, rescaled : nn.Module
        The original, and the module that `rescale` or `load` returned. Layers are matched by name.
    x : (N, C, *spatial) Tensor
        Inputs at the new size.
    size : tuple of int
        The trained size.
    forward : callable, optional
        As for `equivariance_error`.

    Returns
    -------
    list of LayerError
        One for each layer that has parameters itself and whose outputs can be compared, in the order of the first call.

    Raises
    ------
    RekernelError
        If a network does not run at its size.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1))
    >>> [(layer.name, layer.error) for layer in layer_errors(model, model, torch.ones(1, 1, 8, 8), (4, 4))]
    [('0', 0.0)]
    """
    check_module(model)
    check_module(rescaled, "rescaled")
    check_tensor(x)
    small = _outputs(model, reduce_grid(x, size), "the original", forward)
    large = _outputs(rescaled, x, "the rescaled model", forward)
    modules = dict(model.named_modules())
    found = []
    for name, y in small.items():
        other = large.get(name)
        if other is None or other.ndim != y.ndim or (other.shape[:2] != y.shape[:2] and other.shape != y.shape):
            continue
        reduced = other if other.shape == y.shape else reduce_grid(other, tuple(y.shape[2:]))
        error = float((reduced - y).norm() / y.norm().clamp_min(1e-30))
        found.append(LayerError(name, type(modules[name]).__name__, tuple(y.shape[1:]), tuple(other.shape[1:]), error))
    return found


def _outputs(model: nn.Module, x: Tensor, which: str, forward: Forward | None) -> dict[str, Tensor]:
    """The first output of every layer that has parameters itself."""
    outputs: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(own_precision())
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        for name, module in model.named_modules():
            if name and any(True for _ in module.parameters(recurse=False)):

                def note(_module: nn.Module, _args: Any, out: Any, name: str = name) -> None:
                    if isinstance(out, Tensor):
                        outputs.setdefault(name, out.detach())

                stack.callback(module.register_forward_hook(note).remove)
        run(model, x, forward, which, NEW_SIZE)
    return outputs
