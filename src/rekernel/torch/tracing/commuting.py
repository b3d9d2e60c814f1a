"""Tell which functions of the image commute with its reduction: f(reduce(x)) = reduce(f(x)), border included.

Only behind such functions may a layer absorb the scale, since the layer then reduces f(x) where the trained network
had f(reduce(x)). They are sums with constants, products with constants, casts, and moves that leave the pixels in
place.
Scope: functions and their arguments. Not here: what happens where a function does not commute (see
`torch.planning.reading`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .tensor_state import tensors_in

_CASTS = frozenset({
    "to", "float", "half", "double", "bfloat16", "type", "type_as", "contiguous", "clone", "detach", "neg", "__neg__",
    "positive", "requires_grad_", "cuda", "cpu", "dropout",
})  # fmt: skip
_SUMS = frozenset({
    "add", "__add__", "__radd__", "add_", "__iadd__", "sub", "__sub__", "__rsub__", "sub_", "__isub__", "subtract",
    "rsub",
})  # fmt: skip
_PRODUCTS = frozenset({"mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply"})
_QUOTIENTS = frozenset({"div", "__truediv__", "div_", "__itruediv__", "true_divide"})
_MOVES = frozenset({
    "view", "reshape", "flatten", "permute", "transpose", "swapaxes", "movedim", "squeeze", "unsqueeze", "unflatten",
    "chunk", "split", "__getitem__", "select", "unbind", "narrow", "expand", "expand_as", "repeat", "tile", "stack",
})  # fmt: skip
_JOINS = frozenset({"cat", "concat", "stack"})


def commutes(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], is_image: Callable[[Tensor], bool]) -> bool:
    """Whether a function of the image, called by `name`, commutes with the reduction of the image.

    Moves are taken to commute: the layer that reads their result checks that it sees the pixels in their places.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 3, 4, 4)
    >>> [commutes(name, [x, 2.0], {}, lambda t: True) for name in ("mul", "pow")]
    [True, False]
    >>> commutes("mul", [x, x], {}, lambda t: True)
    False
    """
    if name in _CASTS or name in _MOVES - _JOINS:
        return True
    tensors = tensors_in([args, kwargs])
    images = [t for t in tensors if is_image(t)]
    others = [t for t in tensors if not is_image(t)]
    if name in _JOINS:
        return not others
    even = all(_same_for_every_pixel(t, images[0]) for t in others) if images else False
    if name in _SUMS:
        return even
    if name in _PRODUCTS:
        return even and len(images) == 1
    if name in _QUOTIENTS:
        return even and len(images) == 1 and bool(args) and args[0] is images[0] and not kwargs.get("rounding_mode")
    training = kwargs.get("training", args[5] if len(args) > 5 else False)
    return name == "batch_norm" and args[0].ndim > 2 and not training  # on two axes, it has one weight for each pixel


def _same_for_every_pixel(constant: Tensor, image: Tensor) -> bool:
    """Whether a tensor that is combined with the image has one value for all pixels of a channel."""
    return all(n == 1 for n in constant.shape[-max(image.ndim - 2, 1) :])
