"""The demo's tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from rekernel.text import byte_size

from ..terminal import show


def print_results(target: Console, results: dict[str, Any]) -> None:
    """Print one table per classifier: accuracy and macro F1 at each size, the default last."""
    trained = results["trained"]
    for name, title in (("mlp", "MLP on the flattened image"), ("cnn", "CNN, two strides of 2, batch norm")):
        at_home = results[name]["trained"]
        table = Table(box=None, pad_edge=False, title_justify="left", header_style="bold")
        table.add_column(f"{title}: {trained}x{trained} {at_home['accuracy']:.1f} / {at_home['f1']:.1f}")
        for scale in (2, 4):
            size = f"{scale * trained}x{scale * trained}"
            table.add_column(f"{size} acc / F1", justify="right")
            table.add_column("file", justify="right")
        for row in results[name]["rows"]:
            cells = [row["label"]]
            for scale in (2, 4):
                score = row[f"{scale}x"]
                cells += [f"{score['accuracy']:.1f} / {score['f1']:.1f}", byte_size(score["bytes"])]
            table.add_row(*cells, style="bold" if "default" in row["label"] else None)
        show(target, table)
        target.print()
    target.print(
        f"Percent of {results['images']} test images in fonts not trained on; gain dc unless stated otherwise."
    )
