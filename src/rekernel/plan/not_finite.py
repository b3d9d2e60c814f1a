"""Count the weights that are NaN or infinite in a source, and the new weights that they make so.

Scope: counts, and the notes about them. Not here: finite weights that would become infinite, which are refused (see
`checkpoint.dtypes`). A resampling mixes the taps of one kernel, so one NaN spreads over that kernel and no further.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ..escape import shown


@dataclass
class NotFinite:
    """What was found in the tensors that change; several threads may add to it.

    counts : for each tensor, the values that are not finite before, all before, those after, all after

    Examples
    --------
    >>> found = NotFinite()
    >>> found.add("conv.weight", 1, 9, 25, 25)
    >>> found.add("conv.weight", 0, 9, 0, 25)
    >>> found.notes()
    ('conv.weight: 1 of its 18 values is NaN or infinite in the source, and so are 25 of the 50 new ones, ...',)
    """

    counts: dict[str, list[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, name: str, before: int, of_before: int, after: int, of_after: int) -> None:
        """Add what was found in a tensor, or in a part of it."""
        with self._lock:
            sums = self.counts.setdefault(name, [0, 0, 0, 0])
            for i, count in enumerate((before, of_before, after, of_after)):
                sums[i] += count

    def notes(self) -> tuple[str, ...]:
        """One note for each tensor with a value that is not finite."""
        return tuple(_note(name, *counts) for name, counts in sorted(self.counts.items()) if counts[0] or counts[2])


def _note(name: str, before: int, of_before: int, after: int, of_after: int) -> str:
    are = "is" if before == 1 else "are"
    so = "so is" if after == 1 else "so are"
    return (
        f"{shown(name)}: {before:,} of its {of_before:,} values {are} NaN or infinite in the source, and {so} "
        f"{after:,} of the {of_after:,} new ones, in the same kernels; the source is probably damaged"
    )
