"""Find out by running it what the forward method of a pooling's subclass does, as in the 'SAME' poolings of timm.

Scope: padding inside a subclass of a pooling of torch. Not here: explicit padding in front of a pooling, which the
trace records (see `torch.planning.pools`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import RekernelError
from ..layers.padding import Sides, pad_sides, tuple_of
from ..tracing.functions import function_of


def padding_inside(
    module: nn.Module, classes: Iterable[Any], size: tuple[int, ...], given: Collection[tuple[int, ...]]
) -> Sides | None:
    """The padding that the forward method of a pooling adds before it pools; None if it only pools.

    Parameters
    ----------
    module : nn.Module
        Of a subclass of one of `classes`.
    classes : iterable of types
        The pooling classes of torch.
    size : tuple of int
        Pixels that torch's function pooled.
    given : collection of tuples
        Sizes that the module may have been given, beside `size`.

    Raises
    ------
    RekernelError
        If the forward method does something else: its result is not that of padding and pooling.

    Examples
    --------
    >>> class Same(nn.MaxPool1d):
    ...     def forward(self, x):
    ...         return super().forward(nn.functional.pad(x, (0, 1), value=-float("inf")))
    >>> padding_inside(Same(3, 2), [nn.MaxPool1d], (17,), [(16,)])
    ((0, 1),)
    """
    plain: Any = next(known for known in classes if isinstance(module, known))
    for n in (*(n for n in given if n != size), size):
        x = 1 + torch.rand(1, 2, *n, generator=torch.Generator().manual_seed(0))
        read, said = _run(module, x)
        if read is None or tuple(read.shape[2:]) != size or not _same(said, plain.forward(module, read)):
            continue
        for value in (0.0, float("-inf")):
            sides = _sides(read, x, value)
            if sides is None:
                continue
            if not any(map(any, sides)):
                return None
            own = any(tuple_of(getattr(module, "padding", 0), len(n)))
            if (value < 0) == hasattr(module, "return_indices") and not (own and value == 0):
                return sides
            raise RekernelError(
                f"the forward method of this {type(module).__name__} pads by {value:g} before it pools, which the new "
                f"pooling cannot; pad in front of an {plain.__name__} instead (nn.ConstantPad{len(size)}d)"
            )
    raise RekernelError(
        f"this {type(module).__name__} does more in its forward method than to pad and to pool, so an "
        f"{plain.__name__} cannot take its place; put the rest into a module of its own"
    )


class _Inputs(TorchFunctionMode):
    """The inputs of the poolings that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        function = function_of(func)
        if function is not None and function.kind.endswith("pool"):
            self.found.append(args[0] if args else (kwargs or {}).get("input"))
        return func(*args, **(kwargs or {}))


def _run(module: nn.Module, x: Tensor) -> tuple[Tensor | None, Any]:
    """What a module's forward method pools, and what it returns; None if it does not pool once."""
    try:
        with torch.no_grad(), _Inputs() as inputs:
            said = type(module).forward(module, x)
    except Exception:  # code of others, on an input that it may not expect
        return None, None
    one = inputs.found[0] if len(inputs.found) == 1 else None
    return (one, said) if isinstance(one, Tensor) and one.ndim == x.ndim else (None, None)


def _sides(read: Tensor, x: Tensor, value: float) -> Sides | None:
    """The padding that makes `read` of `x`; None if it is not padded by this value."""
    totals = [m - n for m, n in zip(read.shape[2:], x.shape[2:], strict=True)]
    if min(totals) < 0:
        return None
    for lefts in itertools.product(*(range(total + 1) for total in totals)):
        sides = tuple((left, total - left) for left, total in zip(lefts, totals, strict=True))
        if torch.equal(pad_sides(x, sides, value=value), read):
            return sides
    return None


def _same(one: Any, other: Any) -> bool:
    pairs = zip(one, other, strict=False) if isinstance(one, tuple) else [(one, other)]
    return all(isinstance(a, Tensor) and a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
