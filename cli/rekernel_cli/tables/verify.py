"""The table of `rekernel verify`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekernel.escape import shown
from rekernel.text import dims

from ..terminal import show

_FEW = 6  # layers in a warning
FORGIVING = 0.9
"""A classifier that keeps a smaller share of its answers is not supersampled without a warning. Measured at 2x with the
picture moved by half the total stride (benchmarks/real/shifted.py): eleven classifiers of Fashion-MNIST kept 22 to
69 %, and dilation behind an area filter lost 9 to 60 % of their answers; EfficientNet-Lite0 kept 85 % and lost 10 %;
the glyph classifier kept all and lost none."""


def print_comparison(target: Console, result: dict[str, Any]) -> None:
    """Print errors by layer, errors of the converted and of the untouched network, and scores if there are labels."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, justify in (
        ("layer", "left"),
        ("kind", "left"),
        ("output", "left"),
        ("at new size", "left"),
        ("error", "right"),
    ):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for layer in result["layers"]:
        table.add_row(
            Text(shown(layer["name"], 60)), layer["kind"], dims(layer["size"]), dims(layer["new_size"]),
            f"{layer['error']:.4f}",
        )  # fmt: skip
    show(target, table)
    target.print()
    size, new = dims(result["size"]), dims(result["new_size"])
    target.print(f"Whole network, {new} against {size}: relative error {result['error']:.4f}")
    untouched = result["untouched_error"]
    if untouched is None:
        target.print("The untouched network does not run at the new size.")
    else:
        target.print(f"The untouched network at the new size: {untouched:.4f}")
    if result["recalibrated"]:
        pictures = "the pictures that it was recalibrated with" if result["pictures"] else "those pictures, not noise"
        text = f"note: batch norm has other statistics than in the original; pass --data with {pictures}"
        target.print(Text(text))
    _print_shifts(target, result)
    for name, score in result.get("scores", {}).items():
        place = size if name == "original" else new
        target.print(f"{name} at {place}: accuracy {score['accuracy']:.1f}, macro F1 {score['f1']:.1f}")


def _print_shifts(target: Console, result: dict[str, Any]) -> None:
    """Print how the original answers to moved pictures, and warn where supersampled strides make it matter."""
    one, phase, strided = result["shift"], result["phase_shift"], result["strided"]
    if one is not None:
        target.print(f"Picture moved by 1 pixel: the original {_answers(one, result['pictures'])}")
    if phase is None:
        return
    by = dims(f"{step:g}" for step in dict.fromkeys(phase["pixels"]))
    target.print(
        f"Picture moved by {by} pixel{'' if by == '1' else 's'}, as supersampled strides see it: the original "
        f"{_answers(phase, result['pictures'])}"
    )
    if result["pictures"] and phase["agreement"] is not None and phase["agreement"] < FORGIVING:
        names = ", ".join(shown(name, 60) for name in strided[:_FEW])
        more = f" and {len(strided) - _FEW} others" if len(strided) > _FEW else ""
        text = (
            f"warning: {names}{more} keep the stride on the finer grid (mode supersample), so the network sees moved "
            f"pictures, and many of its answers change. Convert with --mode absorb, or train the original with random "
            f"shifts."
        )
        target.print(Text(text))


def _answers(found: dict[str, Any], pictures: bool) -> str:
    if found["change"] is None:
        return f"is not compared: {found['note']}"
    change = f"relative change {found['change']:.3f}"
    if not pictures:
        return f"has a {change} on noise; pass --data for pictures"
    if found["agreement"] is None:
        return f"has a {change}"
    return f"keeps {100 * found['agreement']:.1f} % of its answers, {change}"
