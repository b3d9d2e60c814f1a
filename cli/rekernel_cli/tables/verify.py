"""The table and the sentences of `rekernel verify`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekernel.escape import shown
from rekernel.text import counted, dims, few
from rekernel.torch import ShiftSensitivity, Verification
from rekernel.torch.measure.verdict import SAME

from ..terminal import show

_FEW = 6  # layers in a warning
FORGIVING = 0.9
"""A classifier that keeps a smaller share of its answers is not supersampled without a warning. Measured at 2x with the
picture moved by half the total stride (benchmarks/real/shifted.py): eleven classifiers of Fashion-MNIST kept 22 to
69 %, and dilation behind an area filter lost 9 to 60 % of their answers; EfficientNet-Lite0 kept 85 % and lost 10 %;
the glyph classifier kept all and lost none."""


def print_comparison(target: Console, found: Verification) -> None:
    """Print the verdict, errors by layer, errors of the converted and of the untouched network, and scores."""
    verdict = found.verdict
    target.print(Text(f"Verdict: {verdict.title}. {verdict.on_command_line()}"))
    target.print()
    _print_layers(target, found)
    target.print()
    size, new = dims(found.size), dims(found.new_size)
    for note in found.notes:
        target.print(Text(f"note: {note}"))
    target.print(f"Whole network, {new} against {size}: relative error {found.converted.error:.4f}")
    target.print(f"The original on pictures reduced by a cubic filter: {found.by_hand.error:.4f}")
    if found.untouched is None:
        target.print("The untouched network does not run at the new size.")
    else:
        target.print(f"The untouched network at the new size: {found.untouched.error:.4f}")
    if found.recalibrated:
        pictures = "the pictures that it was recalibrated with" if found.pictures else "those pictures, not noise"
        text = f"note: batch norm has other statistics than in the original; pass --data with {pictures}"
        target.print(Text(text))
    _print_shifts(target, found)
    for name, score in found.scores.items():
        place = size if name == "original" else new
        target.print(f"{name} at {place}: accuracy {score.accuracy:.1f}, macro F1 {score.f1:.1f}")


def _print_layers(target: Console, found: Verification) -> None:
    """Print the error of each layer; of layers that all differ by rounding alone, their count and the largest error."""
    worst = max((layer.error for layer in found.layers), default=0.0)
    if found.layers and worst <= SAME:
        target.print(f"{counted(len(found.layers), 'layer')}, relative error at most {worst:.0e}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, justify in (
        ("layer", "left"),
        ("kind", "left"),
        ("output", "left"),
        ("at new size", "left"),
        ("error", "right"),
    ):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for layer in found.layers:
        table.add_row(
            Text(shown(layer.name, 60)), layer.kind, dims(layer.size), dims(layer.new_size), f"{layer.error:.4f}"
        )
    show(target, table)


def _print_shifts(target: Console, found: Verification) -> None:
    """Print how the original answers to moved pictures, and warn where supersampled strides make it matter."""
    if found.shift is not None:
        target.print(f"Picture moved by 1 pixel: the original {_answers(found.shift, found.pictures)}")
    phase = found.phase_shift
    if phase is None:
        return
    by = dims(f"{step:g}" for step in dict.fromkeys(found.phase))
    target.print(
        f"Picture moved by {by} pixel{'' if by == '1' else 's'}, as supersampled strides see it: the original "
        f"{_answers(phase, found.pictures)}"
    )
    if found.pictures and phase.agreement is not None and phase.agreement < FORGIVING:
        names = few([shown(name, 60) for name in found.strided], _FEW).replace(" more", " others")
        text = (
            f"warning: {names} keep the stride on the finer grid (mode supersample), so the network sees moved "
            f"pictures, and many of its answers change. Convert with --mode absorb, or train the original with random "
            f"shifts."
        )
        target.print(Text(text))


def _answers(found: ShiftSensitivity, pictures: bool) -> str:
    if found.change is None:
        return f"is not compared: {found.note}"
    change = f"relative change {found.change:.3f}"
    if not pictures:
        return f"has a {change} on noise; pass --data for pictures"
    if found.agreement is None:
        return f"has a {change}"
    return f"keeps {100 * found.agreement:.1f} % of its answers, {change}"
