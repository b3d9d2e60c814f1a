"""Note every torch function of a pass that has to do with the image: names, shapes and constants, without values.

A step of the pass at the trained size and the same step at the new size show together which axes grow, whatever the
function is. Also followed here: tensors that the model's code makes from the size of the image (`torch.arange(h)`),
which no tensor argument shows, and weights of a mean (results of a softmax), over which a product may sum.
Scope: what was called. Not here: whether a function keeps its meaning on a larger grid (see
`torch.checking.grown_functions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .functions import KEEPS_SCORES, argument, name_of
from .shape_only import is_fake
from .tensor_notes import TensorNotes
from .tensor_state import tensors_in

# Their results may be coordinates that count pixels.
_FROM_SIZES = frozenset({"arange", "linspace", "range", "cumsum"})
READS = frozenset({"__getitem__", "narrow", "select"})
"""Functions that read a part of a table."""
_WEIGHS = frozenset({"softmax", "sparsemax"})
_KEEPS_WEIGHTS = KEEPS_SCORES | {"dropout", "__get__", "transpose", "permute", "swapaxes", "movedim", "expand"}
_PLAIN = (int, float, bool, str, slice, type(None), type(Ellipsis), torch.dtype)
IN_FRONT = "(in front of the model)"
"""The module of a step in a forward pre-hook of the model, such as the one that resamples the image."""
_LARGEST = 1 << 20  # entries of a tensor whose largest value is looked up


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor argument or result of a function.

    shape : its shape
    image : whether it was computed from the image
    counts : whether it was computed from coordinates that count pixels, and not from the image
    held : whether it is a parameter or a buffer of the model
    weighs : number of entries over which it holds the weights of a mean (a softmax); 0 if it does not
    largest : largest absolute value of a tensor that counts; NaN where the pass has no values
    """

    shape: tuple[int, ...]
    image: bool = False
    counts: bool = False
    held: bool = False
    weighs: int = 0
    largest: float = float("nan")


@dataclass(frozen=True)
class Step:
    """One torch function of a pass.

    name : name of the function
    module : path of the innermost module that called it, or `IN_FRONT`
    args, kwargs : the arguments, with an `Operand` for every tensor
    results : the tensors of the result
    """

    name: str
    module: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Operand, ...]

    @cached_property
    def operands(self) -> list[Operand]:
        """The tensor arguments, in order."""
        return list(_operands((*self.args, *self.kwargs.values())))


@dataclass
class StepLog:
    """The steps of a pass, as far as they have to do with the image or with coordinates.

    steps : the steps, in order
    handled : numbers of the explicit paddings (`F.pad`) that a layer takes over

    Examples
    --------
    >>> log, x = StepLog(), torch.zeros(1, 3, 8, 8)
    >>> log.begin(x)
    >>> log.add(torch.Tensor.sum, "head", (x, (2, 3)), {}, x.sum((2, 3)), [x])
    >>> log.steps[0].name, log.steps[0].operands[0].shape, log.steps[0].args[1], log.steps[0].results[0].shape
    ('sum', (1, 3, 8, 8), (2, 3), (1, 3))
    """

    steps: list[Step] = field(default_factory=list)
    handled: set[int] = field(default_factory=set)
    _seen: TensorNotes[Operand] = field(default_factory=TensorNotes)

    def begin(self, image: Tensor) -> None:
        """Note the image."""
        self._seen[image] = Operand(tuple(image.shape), image=True)

    def hold(self, tensor: Tensor) -> None:
        """Note a parameter or a buffer of the model."""
        self._seen[tensor] = Operand(tuple(tensor.shape), held=True)

    def add(
        self, func: Any, module: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any,
        given: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """Note a call, if one of the tensors that it is `given` is known or its result may count pixels."""
        outputs = tensors_in(result)
        if not outputs:
            return
        name = name_of(func)
        known = [note for t in given if (note := self._seen.get(t)) is not None]
        tables = bool(known) and all(o.held for o in known)
        if (not known and name not in _FROM_SIZES) or (tables and name not in READS):
            return
        image = any(o.image for o in known)
        weighs = max((o.weighs for o in known), default=0) if name in _KEEPS_WEIGHTS else 0
        if name in _WEIGHS:
            dim = argument(args, kwargs, 1, "dim", -1)
            weighs = outputs[0].shape[dim] if isinstance(dim, int) and outputs[0].ndim else 0
        counts = not image and not tables
        for out in outputs:
            largest = _largest(out) if counts else float("nan")
            self._seen[out] = Operand(tuple(out.shape), image, counts, False, weighs, largest)
        self.steps.append(
            Step(
                name,
                module,
                tuple(self._described(a) for a in args),
                {k: self._described(v) for k, v in kwargs.items()},
                tuple(self._seen[out] for out in outputs),
            )
        )

    def _described(self, value: Any) -> Any:
        """An argument without its tensors, which would keep the memory of the whole pass."""
        if isinstance(value, _PLAIN):  # most arguments are
            return value
        if isinstance(value, Tensor):
            return self._seen.get(value) or Operand(tuple(value.shape))
        return tuple(map(self._described, value)) if isinstance(value, list | tuple) else type(value).__name__


def _largest(tensor: Tensor) -> float:
    """The largest absolute value; NaN where there are no values, or too many to look at."""
    if is_fake(tensor) or tensor.device.type == "meta" or not 0 < tensor.numel() <= _LARGEST or tensor.is_complex():
        return float("nan")
    return float(tensor.detach().abs().max()) if tensor.dtype != torch.bool else 1.0


def _operands(tree: Any) -> Iterator[Operand]:
    if isinstance(tree, Operand):
        yield tree
    elif isinstance(tree, tuple):
        for value in tree:
            yield from _operands(value)
