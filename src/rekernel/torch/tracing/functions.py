"""Say which torch functions a trace has to know, and what each does with the image grid.

Scope: tables of functions, and reading their arguments. Not here: what a trace records of a call (see
`tracing.recorder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_F = nn.functional


@dataclass(frozen=True)
class Function:
    """What a torch function does with the image grid.

    kind : name of the handler in `recorder`
    dims : number of spatial axes; 0 where the arguments tell it
    what : name of the function in a note
    image_axes : least number of axes at which the function takes its input for an image (N, C, *spatial); 0 if it never
        does
    """

    kind: str
    dims: int = 0
    what: str = ""
    image_axes: int = 3


_FUNCTIONS: dict[Any, Function] = {
    torch.conv1d: Function("conv", 1),
    torch.conv2d: Function("conv", 2),
    torch.conv3d: Function("conv", 3),
    torch.conv_transpose1d: Function("conv-transpose", 1),
    torch.conv_transpose2d: Function("conv-transpose", 2),
    torch.conv_transpose3d: Function("conv-transpose", 3),
    _F.max_pool1d: Function("max-pool", 1),
    _F.max_pool2d: Function("max-pool", 2),
    _F.max_pool3d: Function("max-pool", 3),
    torch.max_pool1d: Function("max-pool", 1),
    torch.max_pool2d: Function("max-pool", 2),
    torch.max_pool3d: Function("max-pool", 3),
    _F.max_pool1d_with_indices: Function("max-pool", 1),
    _F.max_pool2d_with_indices: Function("max-pool", 2),
    _F.max_pool3d_with_indices: Function("max-pool", 3),
    _F.avg_pool1d: Function("avg-pool", 1),
    _F.avg_pool2d: Function("avg-pool", 2),
    _F.avg_pool3d: Function("avg-pool", 3),
    _F.adaptive_avg_pool1d: Function("adaptive-pool", 1),
    _F.adaptive_avg_pool2d: Function("adaptive-pool", 2),
    _F.adaptive_avg_pool3d: Function("adaptive-pool", 3),
    _F.adaptive_max_pool1d: Function("adaptive-pool", 1),
    _F.adaptive_max_pool2d: Function("adaptive-pool", 2),
    _F.adaptive_max_pool3d: Function("adaptive-pool", 3),
    _F.interpolate: Function("upsample"),
    # These choose pixels by their position, so they do something else on a finer grid.
    _F.lp_pool1d: Function("by-pixel", what="L-p pooling"),
    _F.lp_pool2d: Function("by-pixel", what="L-p pooling"),
    _F.lp_pool3d: Function("by-pixel", what="L-p pooling"),
    _F.fractional_max_pool2d: Function("by-pixel", what="fractional pooling"),
    _F.fractional_max_pool3d: Function("by-pixel", what="fractional pooling"),
    _F.fractional_max_pool2d_with_indices: Function("by-pixel", what="fractional pooling"),
    _F.fractional_max_pool3d_with_indices: Function("by-pixel", what="fractional pooling"),
    _F.max_unpool1d: Function("by-pixel", what="unpooling"),
    _F.max_unpool2d: Function("by-pixel", what="unpooling"),
    _F.max_unpool3d: Function("by-pixel", what="unpooling"),
    _F.pixel_shuffle: Function("by-pixel", what="pixel shuffle"),
    _F.pixel_unshuffle: Function("by-pixel", what="pixel unshuffle"),
    _F.unfold: Function("by-pixel", what="unfold"),
    _F.fold: Function("by-pixel", what="fold"),
    _F.pad: Function("pad"),
    _F.linear: Function("linear", image_axes=0),
    _F.scaled_dot_product_attention: Function("attention", image_axes=0),
    _F.multi_head_attention_forward: Function("attention", image_axes=0),
}
_SUMS = ("add", "__add__", "__radd__", "add_", "__iadd__")
_BY_NAME = {
    "softmax": Function("softmax", image_axes=0),
    "cat": Function("concatenate", image_axes=4),
    "concat": Function("concatenate", image_axes=4),
    "__getitem__": Function("index", what="a step over pixels", image_axes=0),
    **{name: Function("sum", image_axes=0) for name in _SUMS},
}
"""Functions that torch has under several objects (`torch.add`, `Tensor.add`, ...), by their common name."""

NORMS = frozenset({_F.batch_norm, _F.layer_norm, _F.group_norm, _F.instance_norm})
"""Functions with one weight for each feature."""
PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "einsum", "__matmul__"})
"""Names of matrix products, whose result may be the scores of an attention."""
KEEPS_SCORES = frozenset({
    "mul", "__mul__", "__rmul__", "mul_", "div", "__truediv__", "div_", "add", "__add__", "__radd__", "add_",
    "__iadd__", "sub", "__sub__", "sub_", "masked_fill", "masked_fill_", "where", "clamp", "tanh", "float", "to",
    "type_as", "view", "reshape", "unsqueeze", "squeeze", "contiguous", "unflatten", "flatten",
})  # fmt: skip
"""Names of functions that may lie between the product and the softmax of an attention."""
MOVES = frozenset({
    "view", "reshape", "flatten", "permute", "transpose", "swapaxes", "movedim", "contiguous", "squeeze", "unsqueeze",
    "unflatten", "chunk", "split", "__getitem__", "t", "narrow", "select", "unbind", "flip",
})  # fmt: skip
"""Names of functions that only move elements: applied to the positions of the elements, they give the new positions."""


REDUCTIONS = {
    **dict.fromkeys((
        "sum", "nansum", "mean", "nanmean", "amax", "amin", "aminmax", "max", "min", "median", "nanmedian", "var",
        "std", "var_mean", "std_mean", "logsumexp", "prod", "all", "any", "argmax", "argmin", "count_nonzero",
    ), 1),
    "norm": 2, "vector_norm": 2, "quantile": 2, "nanquantile": 2, "kthvalue": 2,
}  # fmt: skip
"""Functions that make one number of many along some axes, and the position of the argument `dim`."""


def function_of(func: Any) -> Function | None:
    """What a torch function does with the grid; None for a function without a rule of its own.

    Examples
    --------
    >>> function_of(torch.conv2d).kind, function_of(torch.Tensor.add_).kind, function_of(torch.relu)
    ('conv', 'sum', None)
    """
    return _FUNCTIONS.get(func) or _BY_NAME.get(name_of(func))


def name_of(func: Any) -> str:
    """The name of a torch function; empty if it has none.

    Examples
    --------
    >>> name_of(torch.Tensor.view)
    'view'
    """
    return str(getattr(func, "__name__", ""))


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str, default: Any = None) -> Any:
    """An argument that a call gives by position or by name.

    Examples
    --------
    >>> argument(["x"], {"mode": "reflect"}, 1, "mode")
    'reflect'
    """
    return args[position] if len(args) > position else kwargs.get(name, default)


def reduced_axes(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The axes over which a reduction goes, () for all axes; None for a function that does not reduce.

    Examples
    --------
    >>> x = torch.zeros(2, 3)
    >>> reduced_axes("mean", [x, 1], {}), reduced_axes("sum", [x], {}), reduced_axes("max", [x, x], {})
    ((1,), (), None)
    """
    if name not in REDUCTIONS:
        return None
    dim = argument(args, kwargs, REDUCTIONS[name], "dim", kwargs.get("axis"))
    if dim is None:
        return ()
    if isinstance(dim, int) and not isinstance(dim, bool):
        return (dim,)
    if isinstance(dim, list | tuple) and all(isinstance(d, int) for d in dim):
        return tuple(dim)
    return None


def attended_tokens(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], x: Tensor) -> int:
    """Number of tokens that each token attends to, in an attention function or in the softmax of an attention."""
    if func is _F.scaled_dot_product_attention:
        return int(argument(args, kwargs, 1, "key").shape[-2])
    if func is _F.multi_head_attention_forward:
        return int(args[1].shape[0])
    return int(x.shape[-1])


def steps_over(item: Any) -> bool:
    """Whether an index takes every second (third, ...) entry of an axis.

    Examples
    --------
    >>> steps_over((slice(None), slice(0, None, 2))), steps_over(slice(3))
    (True, False)
    """
    parts: Sequence[Any] = item if isinstance(item, tuple) else (item,)
    return any(isinstance(p, slice) and p.step is not None and abs(p.step) > 1 for p in parts)
