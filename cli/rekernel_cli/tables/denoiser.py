"""The table and the sentences of `rekernel verify` for a denoiser."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekernel.diffusion import DenoiserVerification
from rekernel.text import dims

from ..terminal import show

_HEADS = ("time", "matched", "low band", "another draw", "untouched", "above it", "untouched")


def print_denoisers(target: Console, found: DenoiserVerification) -> None:
    """Print the differences at each time, and the verdict."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in _HEADS:
        table.add_column(head, justify="right")
    for at in found.times:
        numbers = (at.low_band, at.another_draw, at.untouched, at.above, at.untouched_above)
        table.add_row(f"{at.t:g}", f"{at.matched:.4g}", *(f"{number:.4f}" for number in numbers))
    show(target, table)
    target.print()
    target.print(
        f"{dims(found.new_size)} against {dims(found.size)}, {found.count} pictures. Low band: the predicted noise "
        f"against the trained network's at its size. Above it: against the noise that was added."
    )
    for note in found.notes:
        target.print(Text(f"note: {note}"))
    target.print()
    target.print(Text(f"Verdict: {found.title}. {found.verdict}"))
