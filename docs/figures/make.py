"""Draw the figures of docs/mathematics.md, from the library itself.

    python docs/figures/make.py

Writes kernels.png, responses.png, phase.png and dc_gain.png beside this file; the same bytes every time.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

import rekernel as rk
from rekernel.resampling.filters import interpolation_filter
from rekernel.resampling.least_squares import PASS_BAND, STOP_BAND

HERE = Path(__file__).resolve().parent
# Okabe and Ito: told apart with every common colour vision.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#8C8C8C",
)  # fmt: skip
COLOURS = {
    "dilate": GREY, "nearest": PINK, "linear": ORANGE, "cubic": GREEN, "lanczos3": BLUE, "optimal": RED,
}  # fmt: skip
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "figure.dpi": 110,
    "savefig.dpi": 110,
}


def main() -> None:
    """Draw all four."""
    with plt.style.context("default"), plt.rc_context(STYLE):
        for name, figure in (
            ("kernels", kernels()),
            ("responses", responses()),
            ("phase", phase()),
            ("dc_gain", dc_gain()),
        ):
            _save(figure, HERE / f"{name}.png")


def _save(figure: Figure, path: Path) -> None:
    """A PNG of 160 colours: half of the bytes, and no difference to see."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)
    plt.close(figure)


def kernels() -> Figure:
    """One 3-tap kernel and its 2x versions; heights are times s, so that equal height means equal density."""
    scale, w = 2.0, np.array([-0.4, 1.0, 0.6])
    old = np.arange(3) - 1.0
    x = np.linspace(-4.2, 4.2, 1261)
    panels = [
        ("dilate", "full"), ("nearest", "full"), ("linear", "full"), ("cubic", "full"),
        ("lanczos3", "full"), ("linear", "same-extent"), ("optimal", "same-extent"), ("optimal", "full"),
    ]  # fmt: skip
    figure, grid = plt.subplots(2, 4, figsize=(11.5, 5.2), sharex=True, sharey=True, layout="constrained")
    for axes, (method, taps) in zip(grid.flat, panels, strict=True):
        new = rk.kernel_operator(3, scale, method, taps=taps) @ w
        at = (np.arange(len(new)) - (len(new) - 1) / 2) / scale
        axes.axhline(0, c="0.8", lw=0.8, zorder=0)
        if method not in ("dilate", "optimal"):
            shape = interpolation_filter(method, scale).phi
            axes.plot(x, shape(x[:, None] - old) @ w, c=COLOURS[method], lw=1.2, alpha=0.6)
        axes.vlines(at, 0, scale * new, color=COLOURS[method], lw=1.6)
        axes.plot(at, scale * new, "o", ms=4.5, c=COLOURS[method], label="new, times s")
        axes.plot(old, w, "s", ms=8, mfc="none", mec=BLACK, mew=1.1, label="old")
        cut = ", cut short" if (method, taps) == ("linear", "same-extent") else ""
        axes.set_title(f"{method}: {len(new)} taps{cut}")
    grid[0, 0].legend(loc="upper left", fontsize=8.5, frameon=False)
    for axes in grid[-1]:
        axes.set_xlabel("position (old samples)")
    for axes in grid[:, 0]:
        axes.set_ylabel("tap value (new ones times s)")
    grid[0, 0].set(xlim=(-4.2, 4.2), ylim=(-1.05, 2.5))
    figure.suptitle(
        "A 3-tap kernel at s = 2, every old tap with DC gain 1. Line: the interpolated kernel that the new taps sample"
    )
    return figure


def responses() -> Figure:
    """Error about the pure delay in the pass band, and gain up to the new Nyquist, at s = 2 and 4."""
    figure, grid = plt.subplots(2, 2, figsize=(11.5, 7.4), layout="constrained")
    lines = [
        ("dilate", "full"), ("linear", "same-extent"), ("linear", "full"), ("cubic", "same-extent"),
        ("cubic", "full"), ("lanczos3", "full"), ("optimal", "same-extent"), ("optimal", "full"),
    ]  # fmt: skip
    for (left, right), scale in zip(grid, (2.0, 4.0), strict=True):
        low, high = np.linspace(0.005, 0.5, 200), np.linspace(0, scale / 2, 800)
        for method, taps in lines:
            matrix = rk.kernel_operator(3, scale, method, taps=taps)
            look = {"c": COLOURS[method], "ls": "--" if taps == "same-extent" else "-", "lw": 1.7}
            if method == "optimal":
                look |= {"lw": 2.6}
            label = f"{method}, {len(matrix)} taps"
            if method != "dilate":  # its error is zero: no place on a logarithmic axis
                left.semilogy(low, _rms_over_columns(_response(matrix, scale, low) - 1), label=label, **look)
            right.plot(high, _rms_over_columns(_response(matrix, scale, high)), label=label, **look)
        left.axvspan(0, PASS_BAND, color=SKY, alpha=0.18, lw=0)
        left.text(PASS_BAND / 2, 1.15, "pass band", ha="center", fontsize=9)
        left.set(xlim=(0, 0.5), ylim=(1e-4, 2), ylabel="error |H - 1|", title=f"s = {scale:g}: error in trained band")
        right.axvspan(0, PASS_BAND, color=SKY, alpha=0.18, lw=0)
        right.axvspan(STOP_BAND, scale / 2, color="0.5", alpha=0.15, lw=0)
        right.text(PASS_BAND / 2, 0.04, "pass band", ha="center", fontsize=9)
        right.text((STOP_BAND + scale / 2) / 2, 1.32, "stop band", ha="center", fontsize=9)
        right.set(xlim=(0, scale / 2), ylim=(0, 1.45), ylabel="gain |H|", title=f"s = {scale:g}: gain")
        left.legend(fontsize=8.5, loc="lower right", title="dilate has no error", title_fontsize=8.5)
        right.text(0.985 * scale / 2, 1.02, "dilate", ha="right", fontsize=9, color="0.3")
        for axes in (left, right):
            axes.set_xlabel("frequency (cycles per old sample)")
            axes.grid(alpha=0.2)
    figure.suptitle("Frequency response of one old tap after rescaling (RMS over the three taps; dashed: same extent)")
    return figure


def _response(matrix: NDArray[np.float64], scale: float, f: NDArray[np.float64]) -> NDArray[np.complex128]:
    """(frequencies, columns): each column's response about the place of the old tap it stands for."""
    taps, k = matrix.shape
    new, old = (np.arange(taps) - (taps - 1) / 2) / scale, np.arange(k) - (k - 1) / 2
    waves = np.exp(-2j * np.pi * f[:, None, None] * (new[:, None] - old))
    return (waves * matrix).sum(axis=1)


def _rms_over_columns(h: NDArray[np.complex128]) -> NDArray[np.float64]:
    return np.sqrt(np.mean(np.abs(h) ** 2, axis=1))


def phase() -> Figure:
    """Where a stride-2 convolution looks, at the old size and at twice the size."""
    figure, axes = plt.subplots(figsize=(11.5, 5.6), layout="constrained")
    old_input, new_input = np.arange(6.0), (np.arange(12) + 0.5) / 2 - 0.5
    old_centres = 2 * np.arange(3.0)
    wanted = 2 * ((np.arange(6) + 0.5) / 2 - 0.5)  # c(mu) = mu t - p + (k-1)/2 with t = 2, p = 1, k = 3
    odd, even = rk.kernel_taps(3, 2.0), rk.conv_geometry(3, stride=2, padding=1, scale_in=2.0).taps

    rows = (4.0, 2.0, 0.0)
    _pixels(axes, rows[0], old_input, 1.0)
    for y in rows[1:]:
        _pixels(axes, y, new_input, 0.5)
    for m, centre in enumerate(old_centres):
        _kernel(axes, rows[0] + 0.72 + 0.17 * (m % 2), centre + np.arange(3) - 1, centre, BLUE)
    for i, m in enumerate((1, 3, 5)):
        lift = 0.72 + 0.17 * (i % 2)
        taps = np.arange(odd) - (odd - 1) / 2
        nearest = wanted[m] + 0.25  # the pixel centre an odd kernel has to choose
        _kernel(axes, rows[1] + lift, nearest + taps / 2, nearest, RED)
        _kernel(axes, rows[2] + lift, wanted[m] + (np.arange(even) - (even - 1) / 2) / 2, wanted[m], GREEN)
        for y in rows[1:]:
            _place(axes, wanted[m], y)
        axes.annotate(
            "", (nearest, rows[1] - 0.42), (wanted[m], rows[1] - 0.42), arrowprops={"arrowstyle": "->", "color": RED}
        )
    for m, centre in enumerate(old_centres):
        _place(axes, centre, rows[0])
        axes.text(centre + 0.04, rows[0] - 0.46, f"output {m}", fontsize=8.5)
    for m in (1, 3, 5):
        axes.text(wanted[m] - 0.06, rows[1] - 0.47, f"output {m}", fontsize=8.5, ha="right")
        axes.text(wanted[m] + 0.04, rows[2] - 0.47, f"output {m}", fontsize=8.5)
    texts = (
        "trained size\n3 taps, stride 2, padding 1\noutput m is centred on pixel 2m",
        f"2x, {odd} taps\nan odd kernel is centred on a pixel:\nhalf a new pixel off (arrow)",
        f"2x, {even} taps\nan even kernel is centred between pixels:\nat the right position (dashed)",
    )
    for y, text in zip(rows, texts, strict=True):
        axes.text(-1.15, y + 0.3, text, ha="right", va="center", fontsize=10)
    axes.set(
        xlim=(-4.1, 6.1), ylim=(-0.7, 5.3), xlabel="position (old pixels; pixel n is centred on n)",
        xticks=np.arange(-1, 7), yticks=[],
    )  # fmt: skip
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_bounds(-1, 6)
    axes.xaxis.label.set_x(0.65)
    axes.set_title("Stride 2 at twice the size: the right centres lie between pixels")
    return figure


def _place(axes: Axes, x: float, y: float) -> None:
    """Where an output has to look: dashed, behind the pixels."""
    axes.plot([x, x], [y - 0.34, y + 1.05], c=BLACK, lw=1, ls=(0, (3, 3)), zorder=0)


def _pixels(axes: Axes, y: float, centres: NDArray[np.float64], width: float) -> None:
    for n, x in enumerate(centres):
        face = "0.92" if n % 2 else "0.82"
        axes.add_patch(Rectangle((x - width / 2, y - 0.2), width, 0.4, fc=face, ec="white", lw=1))
        axes.text(x, y, str(n), ha="center", va="center", fontsize=8, color="0.25")


def _kernel(axes: Axes, y: float, taps: NDArray[np.float64], centre: float, colour: str) -> None:
    axes.plot([taps[0], taps[-1]], [y, y], c=colour, lw=1.4)
    axes.plot(taps, [y] * len(taps), "o", ms=5, c=colour)
    axes.plot(centre, y, "|", ms=13, mew=2, c=colour)


def dc_gain() -> Figure:
    """Column sums with the scalar 1/s alone, s = 2, three taps."""
    figure, grid = plt.subplots(1, 4, figsize=(11.5, 3.6), sharey=True, layout="constrained")
    for axes, method in zip(grid, ("nearest", "linear", "cubic", "lanczos3"), strict=True):
        full = rk.kernel_taps(3, 2.0, method)
        for group, taps in enumerate((5, 6, full)):
            sums = rk.kernel_operator(3, 2.0, method, taps=taps, gain="ratio").sum(axis=0)
            for column, value in enumerate(sums):
                x, strength = group + 0.27 * (column - 1), 1.0 if column == 1 else 0.4
                axes.bar(x, value, width=0.25, color=(COLOURS[method], strength), ec=BLACK, lw=0.5)
                label = f"{value:.2f}".rstrip("0").rstrip(".")
                if label != "1" or column == 1:
                    axes.text(x + 0.03 * (column - 1), value + 0.015, label, ha="center", fontsize=7.5)
        axes.axhline(1, c=BLACK, lw=0.9, ls="--")
        axes.set_title(method)
        axes.set_xticks(range(3), ["3 → 5\nsame extent", "3 → 6\neven", f"3 → {full}\nfull"], fontsize=9)
    grid[0].set(ylim=(0, 1.25), ylabel="column sum (gain at zero frequency)")
    figure.suptitle("DC gain of each old tap after division by s = 2 alone (outer taps pale, middle tap dark)")
    return figure


if __name__ == "__main__":
    main()
