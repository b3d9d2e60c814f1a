"""Watch a forward method run: which convolutions and matrix products it calls, on what, and with which arguments.

Scope: torch functions. Not here: what the calls say about a layer (see `torch.layers.own_forward`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention
from torch.overrides import TorchFunctionMode

from .padding import Sides, tuple_of

_CONV: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_TRANSPOSE: dict[Any, int] = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
_RUN: dict[int, Any] = {**{n: f for f, n in _CONV.items()}, **{-n: f for f, n in _TRANSPOSE.items()}}
_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSE_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


@dataclass(frozen=True)
class Product:
    """One convolution, or one matrix product of a linear layer, as a forward method called it.

    x, weight, bias : its arguments
    value : copy of the weight at the time of the call
    stride, dilation, sides, groups, output_padding : its geometry; empty for a linear layer
    transposed : whether it is a transposed convolution
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    value: Tensor
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    sides: Sides = ()
    groups: int = 1
    output_padding: tuple[int, ...] = ()
    transposed: bool = False

    def run(self, x: Tensor) -> Tensor:
        """The same function of another input, with the weight as it was at the time of the call."""
        if not self.stride:
            return F.linear(x, self.value, self.bias)
        dims = len(self.stride)
        if self.transposed:
            padding = [left for left, _ in self.sides]
            out: Tensor = _RUN[-dims](
                x, self.value, self.bias, self.stride, padding, self.output_padding, self.groups, self.dilation
            )
            return out
        flat = [n for pair in reversed(self.sides) for n in pair]
        whole: Tensor = _RUN[dims](F.pad(x, flat), self.value, self.bias, self.stride, 0, self.dilation, self.groups)
        return whole


class Watched(TorchFunctionMode):
    """A mode that lists the convolutions and linear layers that run, and can put another result in their place.

    Parameters
    ----------
    instead : function, optional
        Makes the result of a call; by default each call keeps its own.

    Examples
    --------
    >>> with Watched() as watched:
    ...     _ = torch.nn.Conv1d(1, 2, 3, padding="same")(torch.zeros(1, 1, 8))
    >>> watched.calls[0].sides, watched.calls[0].stride
    (((1, 1),), (1,))
    """

    def __init__(self, instead: Callable[[Product], Tensor] | None = None) -> None:
        super().__init__()
        self.calls: list[Product] = []
        self._instead = instead

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call = _product(func, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        self.calls.append(call)
        return func(*args, **kwargs) if self._instead is None else self._instead(call)


def _product(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Product | None:
    transposed = func in _TRANSPOSE
    dims = _CONV.get(func) or _TRANSPOSE.get(func, 0)
    if not dims and func is not F.linear:
        return None
    names = _TRANSPOSE_ARGUMENTS if transposed else _CONV_ARGUMENTS
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    value = weight.detach().clone()
    if not dims:
        return Product(x, weight, bias, value)
    stride, dilation = (_per_axis(given.get(name, 1), dims) for name in ("stride", "dilation"))
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        totals = [d * (k - 1) * (padding == "same") for d, k in zip(dilation, weight.shape[2:], strict=True)]
        sides = tuple((total // 2, total - total // 2) for total in totals)
    else:
        sides = tuple((p, p) for p in _per_axis(padding, dims))
    extra = _per_axis(given.get("output_padding", 0), dims) if transposed else ()
    return Product(x, weight, bias, value, stride, dilation, sides, given.get("groups", 1), extra, transposed)


def _per_axis(value: Any, dims: int) -> tuple[int, ...]:
    numbers = tuple_of(value, dims)
    return numbers * dims if len(numbers) == 1 else numbers
