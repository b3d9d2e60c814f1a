"""The lists of names and the defaults of the library, as the command line needs them.

Scope: imports that are delayed until a value is parsed or a help is shown, since they import the whole library. Not
here: what the names mean (see `rekernel.resampling.methods`).
"""

from __future__ import annotations

from typing import Any


def methods() -> tuple[str, ...]:
    """Return every method, without aliases, and the word that leaves the method to the role of a layer."""
    from rekernel.resampling.methods import ALL_METHODS, AUTO_METHOD

    return (AUTO_METHOD, *ALL_METHODS)


def reading_filters() -> tuple[str, ...]:
    """Return the methods for the layer that reads the image."""
    from rekernel.resampling.methods import READING_FILTERS

    return READING_FILTERS


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


def dtypes() -> tuple[str, ...]:
    """Return the dtypes of floating-point numbers that a conversion writes."""
    from rekernel.checkpoint.dtypes import FLOATS

    return tuple(FLOATS)


def modes() -> tuple[str, ...]:
    """Return the modes of a network; a layer has all but 'auto'."""
    from rekernel.planning.roles import NETWORK_MODES

    return NETWORK_MODES


def smoothness() -> str:
    """Return the default smoothness and that of networks that give an image back, for the help."""
    from rekernel.planning.roles import FLAT
    from rekernel.resampling.methods import SMOOTHNESS

    return f"{SMOOTHNESS:g}; with --method auto {FLAT:g} in networks that give an image back"


def default(setting: str) -> Any:
    """Return the value of a setting that the user does not give.

    Examples
    --------
    >>> default("method"), default("gain")
    ('auto', 'dc')
    """
    from rekernel.planning.settings import Settings

    return getattr(Settings, setting)
