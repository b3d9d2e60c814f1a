"""Draw quality against passes for every row of benchmarks/diffusion/cascades.py, and samples of the main rows.

python docs/figures/cascades.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "diffusion" / "results"
sys.path.append(str(HERE))

from make import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, STYLE  # noqa: E402 - beside this file

TITLES = {
    "glyphs 32": "digits, UNet, 16 to 32 pixels",
    "glyphs 64": "digits, UNet, 16 to 64 pixels",
    "fashion 32": "clothes, UNet, 16 to 32 pixels",
    "transformer 32": "digits, transformer, 16 to 32 pixels",
}
GROUPS = {  # colour and marker of each group of rows
    "plain": (BLACK, "s"), "kernels": (GREY, "v"), "guidance": (BLUE, "o"), "positions": (GREEN, "D"),
    "cascade": (ORANGE, "^"), "guided cascade": (RED, "*"), "ideas": (PINK, "P"),
}  # fmt: skip
SHOWN = {
    "trained size, enlarged bicubically": "16x16, enlarged",
    "untouched": "untouched",
    "guidance 1.5": "guidance from noise",
    "nested guidance 1.5": "guidance from noise",
    "cascade 0.4": "cascade without guidance",
    "cascade 0.5, 0.3": "cascade without guidance",
    "cascade 0.5": "cascade without guidance",
    "cascade 0.3": "cascade without guidance",
    "cascade 0.4, guidance 1.5": "guided cascade",
    "cascade 0.5, 0.3, guidance 1.5": "guided cascade",
    "cascade 0.5, guidance 1.5": "guided cascade",
    "cascade 0.3, guidance 1.5": "guided cascade",
    "cascade 0.3, guidance 1.5 + yarn positions, temperature 0": "and yarn positions",
}
SAMPLED = {  # the strength that is shown
    "glyphs-32": "0.4", "glyphs-64": "0.5, 0.3", "fashion-32": "0.5", "transformer-32": "0.3",
}  # fmt: skip


def quality(results: dict[str, Any]) -> Figure:
    """Frechet distance against passes, a panel for each model and size."""
    held = {label: results[label]["rows"] for label in TITLES if label in results}
    figure, axes = plt.subplots(2, 2, figsize=(10.4, 8.2), constrained_layout=True)
    for ax, (label, rows) in zip(axes.flat, held.items(), strict=False):
        _panel(ax, rows)
        ax.set_title(TITLES[label])
    for ax in axes.flat[len(held) :]:
        ax.axis("off")
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _panel(ax: Axes, rows: dict[str, Any]) -> None:
    for group, (colour, marker) in GROUPS.items():
        found = [row for name, row in rows.items() if row["group"] == group and name != "true pictures"]
        x, y = ([row["passes"] for row in found], [row["frechet"][0] for row in found])
        ax.scatter(x, y, s=90 if marker == "*" else 42, color=colour, marker=marker, label=group, alpha=0.85)
    ax.axhline(rows["true pictures"]["frechet"][0], color=BLACK, linewidth=0.8, linestyle=":")
    ax.text(0, rows["true pictures"]["frechet"][0], "true pictures", fontsize=8, va="bottom")
    for name, said in (("untouched", "untouched"), ("trained size, enlarged bicubically", "enlarged")):
        ax.annotate(said, (rows[name]["passes"], rows[name]["frechet"][0]), xytext=(5, 4),
                    textcoords="offset points", fontsize=8)  # fmt: skip
    ax.set(yscale="log", xlabel="passes of the network at the full size", ylabel="Frechet distance (less is better)")
    ax.set_xlim(left=0)


def samples(keys: Sequence[str], columns: int) -> Figure:
    """Ten samples of the shown rows, a panel for each model and size."""
    files = {key: RESULTS / f"cascades-{key}.npz" for key in keys}
    rows = -(-len(keys) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.6 * columns, 2.6 * rows), constrained_layout=True)
    for ax, (key, path) in zip(np.atleast_1d(axes).flat, files.items(), strict=True):
        with np.load(path) as held:
            strength = SAMPLED[key]
            wanted = [
                n
                for n in SHOWN
                if n in held and not (n.startswith("cascade") and n.split(", guid")[0] != f"cascade {strength}")
            ]
            sheet = np.concatenate([np.concatenate(list(np.pad(held[n], ((0, 0), (1, 1), (1, 1)))), 1) for n in wanted])
        ax.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        side = sheet.shape[0] / len(wanted)
        ax.set_yticks([side * (i + 0.5) for i in range(len(wanted))], [SHOWN[n] for n in wanted])
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.set_title(TITLES[key.replace("-", " ")])
        for spine in ax.spines.values():
            spine.set_visible(False)
    return figure


def main() -> None:
    plt.rcParams.update(STYLE)
    results = json.loads((RESULTS / "cascades.json").read_text())
    for name, figure in (
        ("guidance-cascades", quality(results)),
        ("guidance-cascade-samples", samples(list(SAMPLED), 1)),
        ("cascades", samples(["glyphs-32", "fashion-32"], 2)),
    ):
        figure.savefig(HERE / f"{name}.png", metadata={"Software": None}, bbox_inches="tight")
        plt.close(figure)


if __name__ == "__main__":
    main()
