"""Run a model on pictures, in the way that the caller says, and explain why it does not run.

Scope: one call of a model, and messages. Not here: what is compared (see `torch.measure`), and recording a pass (see
`torch.tracing.run`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Option, RekernelError
from ..escape import cause, shown
from .others_code import place_of

Forward = Callable[[nn.Module, Any], Any]
"""How to run a model on a batch, for a model that takes something else than one image."""


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, which says nothing about the model or its input."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate" in str(error)  # on a CPU, torch has no class for this error


def run(model: nn.Module, x: Tensor, forward: Forward | None, what: str, *advice: str | Option) -> Any:
    """What the model gives for `x`.

    Parameters
    ----------
    model : nn.Module
    x : Tensor
    forward : callable, optional
        `forward(model, x)`; by default `model(x)`.
    what : str
        The model in a message: 'the original'.
    *advice : str or Option
        What to pass instead, if the model raises. If it takes more inputs than one, the message says so instead.

    Raises
    ------
    RekernelError
        If the model raises an exception; the message names the file and the line.

    Examples
    --------
    >>> run(nn.Flatten(), torch.ones(1, 2, 2), None, "the model").shape
    torch.Size([1, 4])
    >>> run(nn.Bilinear(2, 2, 1), torch.ones(1, 2), lambda model, x: model(x, x), "the model").shape
    torch.Size([1, 1])
    """
    try:
        return model(x) if forward is None else forward(model, x)
    except RekernelError:
        raise
    except Exception as error:  # the model may raise anything on this input
        if out_of_memory(error):
            raise
        why: tuple[str | Option, ...] = (said_by(error), *(("; ", *advice) if advice else ()))
        if forward is None and (needs := more_inputs(model)):
            why = _with_forward(needs)
        raise RekernelError(
            f"{what} ({type(model).__name__}) does not run on inputs {tuple(x.shape)}: ", *why
        ) from error


def said_by(error: BaseException, limit: int = 300) -> str:
    """What an error of other code says, with its file and line where they are known.

    Examples
    --------
    >>> said_by(ValueError("no such size"))
    'no such size'
    """
    place = place_of(error)
    return f"{cause(error, limit)}{f' ({shown(place, 100)})' if place else ''}"


def more_inputs(model: nn.Module) -> tuple[str, ...]:
    """The names of the inputs that a model needs besides its first one.

    Examples
    --------
    >>> more_inputs(nn.Bilinear(2, 2, 1)), more_inputs(nn.Conv2d(1, 1, 3)), more_inputs(nn.MultiheadAttention(4, 2))
    (('input2',), (), ('key', 'value'))
    """
    try:
        parameters = [*inspect.signature(model.forward).parameters.values()]
    except (TypeError, ValueError):  # a forward without a signature
        return ()
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters[1:] if p.default is p.empty and p.kind not in fixed)


def call_with(needs: tuple[str, ...], image: str) -> str:
    """A call of a model with the inputs that it needs besides its image, as code to fill in.

    Examples
    --------
    >>> call_with(("timestep",), "x")
    'model(x, timestep=...)'
    """
    return f"model({image}, {', '.join(f'{shown(name)}=...' for name in needs)})"


def arguments(example: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a model: a tensor, a tuple of arguments, or a dict of keyword arguments.

    Examples
    --------
    >>> arguments((1, 2)), arguments({"timestep": 1}), arguments(3)
    (([1, 2], {}), ([], {'timestep': 1}), ([3], {}))
    """
    if isinstance(example, Mapping):
        return [], dict(example)
    return list(example) if isinstance(example, tuple | list) else [example], {}


def _with_forward(needs: tuple[str, ...]) -> tuple[str | Option, ...]:
    """How to pass more inputs, for users of Python and of the command."""
    call = call_with(needs, "x")
    return (
        f"it also needs {', '.join(map(shown, needs))}; ",
        Option(
            f"pass forward=lambda model, x: {call}",
            f"name a function that runs it: --forward mine.py:run, with def run(model, x): return {call}",
        ),
    )
