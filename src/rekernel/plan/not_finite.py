"""The note about weights that are NaN or infinite before they are resampled.

Scope: the text. Not here: finite weights that would become infinite, which are refused (see `checkpoint.dtypes`). A
resampling mixes the taps of one kernel, so one NaN spreads over that kernel and no further.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..escape import shown
from ..text import few


def not_finite_note(names: Sequence[str]) -> str:
    """The note of a conversion that resampled these tensors.

    Examples
    --------
    >>> not_finite_note(["conv.weight"])
    'conv.weight: NaN or infinite values in the source, which spread to their neighbours'
    """
    named = few([shown(name) for name in names], 3)
    return f"{named}: NaN or infinite values in the source, which spread to their neighbours"
