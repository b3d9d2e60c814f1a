"""Replace attributes of a network's parts for the duration of one call.

Scope: the dictionaries of Python objects. Not here: what replaces them (see `tables` and `queries`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_NONE = object()


@dataclass(frozen=True)
class Loan:
    """An attribute that an object has during a call.

    owner : the object; its own dictionary is changed, not its class
    name, value : the attribute
    """

    owner: Any
    name: str
    value: Any


@contextmanager
def lent(loans: Sequence[Loan]) -> Iterator[None]:
    """Set the attributes in the `with` block; afterwards, also after an exception, every object is as before.

    Examples
    --------
    >>> class Part:
    ...     def forward(self):
    ...         return 1
    >>> part = Part()
    >>> with lent([Loan(part, "forward", lambda: 2)]):
    ...     part.forward()
    2
    >>> part.forward(), vars(part)
    (1, {})
    """
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for loan in loans:
            attributes = vars(loan.owner)
            before.append((attributes, loan.name, attributes.get(loan.name, _NONE)))
            attributes[loan.name] = loan.value
        yield
    finally:
        for attributes, name, value in reversed(before):
            if value is _NONE:
                del attributes[name]
            else:
                attributes[name] = value
