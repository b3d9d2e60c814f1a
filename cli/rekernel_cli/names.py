"""The lists of names and the defaults of the library, as the command line needs them.

Scope: imports that are delayed until a value is parsed or a help is shown, since they import the whole library. Not
here: what the names mean (see `rekernel.resampling.methods`).
"""

from __future__ import annotations

from typing import Any


def methods() -> tuple[str, ...]:
    """Return every method, without aliases."""
    from rekernel.resampling.methods import ALL_METHODS

    return ALL_METHODS


def methods_by_use() -> str:
    """Return the methods of kernels, then those that only a grid has, for the help."""
    from rekernel.resampling.methods import GRID_METHODS, KERNEL_METHODS

    on_grids = [method for method in GRID_METHODS if method not in KERNEL_METHODS]
    return f"{', '.join(KERNEL_METHODS)}; on grids also {', '.join(on_grids)}"


def gains() -> tuple[str, ...]:
    """Return the gains."""
    from rekernel.resampling.methods import GAINS

    return GAINS


def taps_rules() -> tuple[str, ...]:
    """Return the words that stand for a number of taps."""
    from rekernel.resampling.methods import TAPS_RULES

    return TAPS_RULES


def orders() -> tuple[str, ...]:
    """Return the orders of a flattened grid."""
    from rekernel.resampling.arrays import ORDERS

    return ORDERS


def modes() -> tuple[str, ...]:
    """Return the modes of a layer."""
    from rekernel.planning.roles import MODES

    return MODES


def default(setting: str) -> Any:
    """Return the value of a setting that the user does not give.

    Examples
    --------
    >>> default("method"), default("gain")
    ('optimal', 'dc')
    """
    from rekernel.planning.settings import Settings

    return getattr(Settings, setting)
