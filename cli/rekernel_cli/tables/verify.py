"""The table of `rekernel verify`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekernel.escape import shown
from rekernel.text import dims

from ..terminal import show


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
    for name, score in result.get("scores", {}).items():
        place = size if name == "original" else new
        target.print(f"{name} at {place}: accuracy {score['accuracy']:.1f}, macro F1 {score['f1']:.1f}")
