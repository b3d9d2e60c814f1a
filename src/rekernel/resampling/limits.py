"""Limits of what a resampling may ask for, so that no number in a file or an argument exhausts memory or overflows.

Scope: numbers. Not here: the matrices (see `operators`), and the numbers of a plan (see `plan.bounds`).
"""

from __future__ import annotations

from ..errors import RekernelError
from ..messages.arguments import check_number, short

MOST_TAPS = 4096
"""Upper bound along one axis. A larger count almost always means a mistyped scale and would exhaust memory."""

MOST_ENTRIES = 1 << 24
"""Most entries of a matrix, 128 MiB: far above every known layer, and small enough for every machine."""
LARGEST_A = 16.0
"""Largest size of the parameter of the cubic filter. Those in use lie between -1 and 0; huge ones overflow."""


def check_entries(rows: int, columns: int, what: str) -> None:
    """Raise if a matrix is larger than any layer needs.

    Examples
    --------
    >>> check_entries(1 << 20, 1 << 20, "grid_operator(1048576, 1048576)")
    Traceback (most recent call last):
    rekernel.errors.RekernelError: grid_operator(1048576, 1048576) is a matrix of 1048576 x 1048576 entries, and
    16777216 is the limit; check the size and the scale
    """
    if int(rows) * int(columns) > MOST_ENTRIES:
        raise RekernelError(
            f"{what} is a matrix of {rows} x {columns} entries, and {MOST_ENTRIES} is the limit; check the size and "
            f"the scale"
        )


def check_a(a: object) -> None:
    """Raise unless a value is a parameter of the cubic filter.

    Examples
    --------
    >>> check_a(1e308)
    Traceback (most recent call last):
    rekernel.errors.RekernelError: a=1e+308 lies outside -16 to 16; it is the parameter of the cubic filter, -0.5
    """
    check_number(a, "a", "-0.5")
    if not -LARGEST_A <= a <= LARGEST_A:  # type: ignore[operator]
        raise RekernelError(
            f"a={short(a)} lies outside {-LARGEST_A:g} to {LARGEST_A:g}; it is the parameter of the cubic filter, -0.5"
        )
