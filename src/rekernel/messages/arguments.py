"""Refuse arguments of another kind, such as a module where an array is wanted, and say what to pass instead.

Scope: the kind of a value. Not here: values of the right kind that no layer can have (see `planning.allowed_values`).
Modules and tensors are recognised by their attributes, so neither torch nor another framework is imported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any

from ..errors import RekernelError
from ..escape import shown


def kind_of(value: object) -> str:
    """The class of a value with its article.

    Examples
    --------
    >>> kind_of(1), kind_of("x"), kind_of(None), kind_of(OSError())
    ('an int', 'a str', 'None', 'an OSError')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def short(value: object) -> str:
    """A value for a message, on one line of at most 80 characters.

    Examples
    --------
    >>> short("2"), len(short(list(range(100)))) <= 80
    ("'2'", True)
    """
    return shown(" ".join(repr(value).split()), 80)


def check_array(value: Any, name: str = "w") -> None:
    """Raise unless a value is an array of some framework.

    Examples
    --------
    >>> check_array([1.0])
    Traceback (most recent call last):
    rekernel.errors.RekernelError: w is a list, not an array; pass numpy.asarray(w), or a tensor of PyTorch, JAX or CuPy
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return
    if hasattr(value, "named_modules"):
        own = getattr(value, "weight", None)
        weight = f"{'its weight' if own is not None else 'the weight of a layer'}, {name}=layer.weight"
        advice = f"pass {weight}, or rescale the whole module: rekernel.torch.rescale(model, scale, example_input)"
    elif isinstance(value, str | bytes | os.PathLike):
        advice = (
            "read the tensor from the file first, or convert the whole file: rekernel.convert(source, target, scale=2)"
        )
    elif isinstance(value, Mapping):
        advice = "pass one of its tensors"
    elif isinstance(value, Sequence):
        advice = f"pass numpy.asarray({name}), or a tensor of PyTorch, JAX or CuPy"
    else:
        advice = "pass one of NumPy, PyTorch, JAX or CuPy"
    raise RekernelError(f"{name} is {kind_of(value)}, not an array; {advice}")


def check_path(value: Any, name: str) -> None:
    """Raise unless a value is a path as text or as an object.

    Examples
    --------
    >>> check_path(b"x", "source")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: source is bytes; pass text: os.fsdecode(source)
    """
    if value == "":
        raise RekernelError(f"{name} is an empty text; pass the name of a file or folder, such as '.' for this folder")
    if isinstance(value, str) or (isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)):
        return
    if isinstance(value, bytes | os.PathLike):
        raise RekernelError(f"{name} is bytes; pass text: os.fsdecode({name})")
    if hasattr(value, "named_modules"):
        advice = "for a module in memory use rekernel.torch.rescale(model, scale, example_input)"
    elif isinstance(value, Mapping):
        advice = "for tensors in memory write them first: safetensors.torch.save_file(state_dict, path)"
    else:
        advice = "pass the name of a file or folder, or an hf:// address"
    raise RekernelError(f"{name} is {kind_of(value)}, not a path; {advice}")


def check_instance(value: Any, kind: type, name: str, advice: str) -> None:
    """Raise unless a value is of a class.

    Examples
    --------
    >>> check_instance({}, int, "plan", "pass what plan_checkpoint returned")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: plan is a dict, not an int; pass what plan_checkpoint returned
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
        raise RekernelError(f"{name} is {kind_of(value)}, not {article} {kind.__name__}; {advice}")


def check_number(value: Any, name: str, example: str) -> None:
    """Raise unless a value is a finite number.

    Examples
    --------
    >>> check_number("1", "theta", "1.5")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: theta='1' is not a finite number; pass one, such as theta=1.5
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise RekernelError(f"{name}={short(value)} is not a finite number; pass one, such as {name}={example}")


def check_whole(value: Any, name: str, example: str) -> None:
    """Raise unless a value is a whole number above 0.

    Examples
    --------
    >>> check_whole("8", "width", "128")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: width='8' is not a whole number above 0; pass one, such as width=128
    """
    if not hasattr(value, "__index__") or isinstance(value, bool) or value < 1:
        raise RekernelError(f"{name}={short(value)} is not a whole number above 0; pass one, such as {name}={example}")


def check_sizes(value: Any, name: str, example: str) -> tuple[int, ...]:
    """The whole numbers of a size; raise where it is something else.

    Examples
    --------
    >>> check_sizes([3, 16, 16], "grid", "(3, 16, 16)")
    (3, 16, 16)
    >>> check_sizes("1,2", "grid", "(3, 16, 16)")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: grid='1,2' is not a tuple of whole numbers; pass one, such as grid=(3, 16, 16)
    """
    several: list[Any] = list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [None]
    if not all(hasattr(n, "__index__") and not isinstance(n, bool) for n in several):
        raise RekernelError(
            f"{name}={short(value)} is not a tuple of whole numbers; pass one, such as {name}={example}"
        )
    return tuple(int(n) for n in several)


def check_names(given: Iterable[str], known: Iterable[str], function: str) -> None:
    """Raise for a keyword argument that a function does not have, with the nearest one that it has.

    Examples
    --------
    >>> check_names(["metod"], ["method", "mode"], "convert")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: convert has no argument metod=; did you mean method=?
    """
    known = sorted(known)
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"it has {', '.join(known)}"
            raise RekernelError(f"{function} has no argument {shown(name)}=; {hint}")
