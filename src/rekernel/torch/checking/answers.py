"""Run a model on a probe and keep its answer and the outputs of its modules, as far as they are small.

Scope: one pass. Not here: probes (see `checking.pictures`), and what two passes say about each other (see
`checking.deviations`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..surroundings import own_precision
from ..tracing.eval_mode import evaluating
from ..tracing.shape_only import unchanged
from ..tracing.tensor_state import tensors_in

_LARGEST = 1 << 25  # entries of all outputs that are kept: 128 MiB in float32


@dataclass
class Answers:
    """What a model gave.

    outputs : its tensors as floats, in order
    dtype : the floating-point dtype of the first; float32 for whole numbers
    modules : the outputs of its modules by path, in the order in which they were done; the last call of each counts
    """

    outputs: tuple[Tensor, ...] = ()
    dtype: torch.dtype = torch.float32
    modules: dict[str, Tensor] = field(default_factory=dict)


def answers(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, seed: int = 0) -> Answers:
    """Run a model in evaluation mode and without gradients; its attributes and the random state stay as they were.

    Raises
    ------
    Exception
        Whatever the model raises.

    Examples
    --------
    >>> found = answers(nn.Sequential(nn.ReLU(), nn.Flatten()), [torch.ones(1, 2, 2)], {})
    >>> found.outputs[0].shape, list(found.modules)
    (torch.Size([1, 4]), ['0', '1'])
    """
    found = Answers()
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with ExitStack() as stack:
        for around in (own_precision(), unchanged(model), evaluating(model), torch.no_grad(), _kept(model, found)):
            stack.enter_context(around)
        stack.enter_context(torch.random.fork_rng(devices))
        torch.manual_seed(seed)
        outs = [out for out in tensors_in(model(*args, **kwargs)) if not out.is_complex()]
    found.outputs = tuple(out.detach().to(_floats(out)) for out in outs)
    found.dtype = outs[0].dtype if outs and outs[0].is_floating_point() else torch.float32
    return found


def _floats(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@contextmanager
def _kept(model: nn.Module, found: Answers) -> Iterator[None]:
    handles, left = [], _LARGEST
    for name, module in model.named_modules():

        def leave(_m: nn.Module, _args: Any, out: Any, name: str = name) -> None:
            nonlocal left
            if name and isinstance(out, Tensor) and out.is_floating_point() and out.numel() <= left:
                left -= out.numel()
                found.modules.pop(name, None)
                found.modules[name] = out.detach().to(_floats(out), copy=True)  # a later layer may write into it

        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
