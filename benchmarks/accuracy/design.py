"""How smooth the least-squares kernels should be: what SMOOTHNESS, PASS_BAND and STOP_BAND cost and buy.

    python benchmarks/accuracy/design.py            # about ten minutes on two cores
    python benchmarks/accuracy/design.py --images 100 --scales 2

Two measurements. *Filters*: each column of an operator against the pure delay it stands for, as a frequency response
in cycles per old sample; error below 0.25, images above 0.75. *Network*: the convolutional classifier of
examples/glyphs, trained at 16x16, with every kernel rescaled; test accuracy, and how far its last feature maps,
averaged down to their old grid, are from those at the trained size. Twice: on clean images, and with white noise that
averages down to NOISE at the trained size, which is where spectral copies show.
Writes results/design.json and results/design.png beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import rekernel as rk
from rekernel.resampling import least_squares as optimal

HERE = Path(__file__).resolve().parent
GLYPHS = HERE.parents[1] / "examples" / "glyphs"

SCALES = (1.5, 2.0, 3.0, 4.0)
SMOOTHNESS = (0.0, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
TAPS = ("same-extent", "full")
RIVALS = (
    ("dilate", "full"),
    ("nearest", "full"),
    ("area", "full"),
    ("linear", "same-extent"),
    ("linear", "full"),
    ("cubic", "same-extent"),
    ("cubic", "full"),
    ("lanczos3", "same-extent"),
    ("lanczos3", "full"),
)
GAINS = (("linear", "same-extent", "ratio"), ("cubic", "same-extent", "ratio"), ("cubic", "same-extent", "none"))
NOISE = 0.05  # standard deviation per pixel at the trained size; enough to cost accuracy there
BAND_SWEEP = ((0.25, 0.3, 0.35, 0.4), (0.6, 0.7), (0.003, 0.02))  # pass, stop, smoothness
KEPT, IMAGES = (0.0, 0.25), 0.75  # where the filters are judged, cycles per old sample
CHOSEN = optimal.SMOOTHNESS

Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    console = Console(width=150)
    setting = _setting(options)
    for name, value in setting.items():
        console.print(f"{name}: {value}", highlight=False)

    scales = options.scales
    filters = [r for s in scales for r in filter_rows(s)]
    _print(console, "One 3-tap kernel, each column's frequency response; worst column", filters, FILTER_COLUMNS)
    results: dict[str, Any] = {"setting": setting, "filters": filters}
    if (GLYPHS / "cnn.safetensors").exists():
        network = Network(options.images)
        setting["accuracy_at_trained_size"] = dict(zip(("clean", "noisy"), network.accuracy, strict=True))
        results["network"], results["bands"] = [], []
        for s in scales:
            rows = network.rows(s)
            _print(console, f"Glyph classifier, {network.count} test images", rows, NETWORK_COLUMNS)
            results["network"] += rows
        results["summary"] = summary_rows(results["network"])
        _print(console, "Geometric mean over the whole scales", results["summary"], SUMMARY_COLUMNS)
        for s in (s for s in scales if s in (2, 4)):
            rows = network.band_rows(s)
            _print(console, "Bands, same extent", rows, BAND_COLUMNS)
            results["bands"] += rows
    else:
        console.print(f"{GLYPHS / 'cnn.safetensors'} is missing: no network was measured.")

    target = HERE / "results"
    target.mkdir(exist_ok=True)
    (target / "design.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, target / "design.png")


# --- filters ---------------------------------------------------------------------------------------------------


def filter_rows(scale: float) -> list[Row]:
    """Every smoothness, then every rival, at one scale: phase 0, and half a pixel with one tap more."""
    rows = []
    for taps, smoothness in itertools.product(TAPS, SMOOTHNESS):
        rows.append(_filter_row("optimal", scale, taps, smoothness))
    for method, taps in RIVALS:
        if method != "dilate" or scale == int(scale):
            rows.append(_filter_row(method, scale, taps, None))
    return rows


def _filter_row(method: str, scale: float, taps: str, smoothness: float | None) -> Row:
    knob = {} if smoothness is None else {"smoothness": smoothness}
    matrix = rk.kernel_operator(3, scale, method, taps=taps, **knob)
    row: Row = {"scale": scale, "method": method, "taps": taps, "count": len(matrix), "smoothness": smoothness}
    kept, images = band_errors(matrix, scale)
    row |= {"kept": float(kept.max()), "images": float(images.max()), "peak": _peak(matrix, scale)}
    if method == "optimal":  # stride 2 at an even scale: half a pixel, an even number of taps
        kept, images = band_errors(rk.kernel_operator(3, scale, method, taps=len(matrix) + 1, **knob), scale)
        row |= {"kept_even": float(kept.max()), "images_even": float(images.max())}
    return row


def band_errors(matrix: NDArray[np.float64], scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RMS of |H - 1| below 0.25, and of |H| from 0.75 to the new Nyquist, per column of a kernel operator.

    H is the response of what one old tap became, about that tap's own place. Where the new Nyquist is 0.75 itself
    (scale 1.5) the second number is |H| there.
    """

    def rms(band: tuple[float, float], ideal: float) -> NDArray[np.float64]:
        return np.sqrt(np.mean(np.abs(_response(matrix, scale, band) - ideal) ** 2, axis=0))

    return rms(KEPT, 1.0), rms((IMAGES, max(scale / 2, IMAGES)), 0.0)


def _peak(matrix: NDArray[np.float64], scale: float) -> float:
    """Largest gain at any frequency: above 1, noise grows."""
    return float(np.abs(_response(matrix, scale, (0.0, scale / 2))).max())


def _response(matrix: NDArray[np.float64], scale: float, band: tuple[float, float]) -> NDArray[np.complex128]:
    """(frequencies, columns)"""
    taps, k = matrix.shape
    positions, old = (np.arange(taps) - (taps - 1) / 2) / scale, np.arange(k) - (k - 1) / 2
    waves = np.exp(-2j * np.pi * np.linspace(*band, 401)[:, None, None] * (positions[:, None] - old))
    return (waves * matrix).sum(axis=1)


# --- network ---------------------------------------------------------------------------------------------------


class Network:
    """The trained classifier, its test images at any size, and its features at the trained size."""

    def __init__(self, count: int) -> None:
        import torch
        from safetensors.torch import load_file

        sys.path.insert(0, str(GLYPHS))
        import models

        torch.set_num_threads(2)
        self.torch, self.models = torch, models
        self.state = load_file(GLYPHS / "cnn.safetensors")
        data = np.load(GLYPHS / "test.npz")
        self.images = data["images"][:count].astype(np.float32) / 255
        self.labels = torch.from_numpy(data["labels"][:count])
        self.count = len(self.labels)
        self.trained = models.GlyphCNN.from_state_dict(self.state)
        self.noise = np.random.default_rng(0).standard_normal(self.images.shape, dtype=np.float32)
        self.reference = [self._run(self.trained, 16, level) for level in (0.0, NOISE)]
        self.accuracy = [accuracy for _, accuracy in self.reference]

    def rows(self, scale: float) -> list[Row]:
        """Every rival, every smoothness, then what the exact phase and the gain are worth."""
        rows = [self._row("untouched", scale, None)]
        for method, taps in RIVALS:
            if method != "dilate" or scale == int(scale):
                rows.append(self._row(method, scale, taps))
        for taps, smoothness in itertools.product(TAPS, SMOOTHNESS):
            rows.append(self._row("optimal", scale, taps, smoothness))
        for method, taps in (("linear", "same-extent"), ("cubic", "full"), ("optimal", "same-extent")):
            smoothness = CHOSEN if method == "optimal" else None
            rows.extend(self._row(method, scale, taps, smoothness, phase=phase) for phase in ("odd", "ignored"))
        rows.extend(self._row(method, scale, taps, gain=gain) for method, taps, gain in GAINS)
        return rows

    def band_rows(self, scale: float) -> list[Row]:
        """Other edges of the two bands."""
        rows = []
        for end, start, smoothness in itertools.product(*BAND_SWEEP):
            with bands(end, start):
                row = self._row("optimal", scale, "same-extent", smoothness)
                matrix = rk.kernel_operator(3, scale, taps="same-extent", smoothness=smoothness)
                kept, images = band_errors(matrix, scale)
            judged = {"kept": float(kept.max()), "images": float(images.max()), "peak": _peak(matrix, scale)}
            rows.append({"pass": end, "stop": start, **row, **judged})
        return rows

    def _row(
        self, method: str, scale: float, taps: str | None, smoothness: float | None = None,
        phase: str = "exact", gain: str = "dc",
    ) -> Row:  # fmt: skip
        """`phase`: 'exact'; 'odd' has it in the kernel, but no extra tap; 'ignored' centres every kernel."""
        start = time.perf_counter()
        knob = {} if smoothness is None else {"smoothness": smoothness}
        model, counts = self._rescaled(method, scale, taps, phase, {"gain": gain, **knob})
        row: Row = {"scale": scale, "method": method, "taps": taps, "count": counts, "smoothness": smoothness}
        row |= {"phase": phase, "gain": gain}
        for suffix, level, (reference, _) in zip(("", "_noisy"), (0.0, NOISE), self.reference, strict=True):
            features, row[f"accuracy{suffix}"] = self._run(model, round(16 * scale), level)
            reduced = _reduced(features, reference.shape[-1])
            error = np.linalg.norm(reduced - reference) / np.linalg.norm(reference)
            row[f"feature_error{suffix}"] = float(error)
        return row | {"seconds": round(time.perf_counter() - start, 2)}

    def _rescaled(
        self, method: str, scale: float, taps: str | None, phase: str, options: dict[str, Any]
    ) -> tuple[Any, str]:
        if method == "untouched":
            return self.trained, "3"
        state, layers, size = dict(self.state), {}, 16
        for name, layer in self.models.CNN_GEOMETRY.items():
            old = {"stride": layer["stride"], "padding": layer["padding"], "scale_in": scale, "size": size}
            count = taps if phase == "exact" else rk.kernel_taps(3, scale, method, taps)
            place = rk.conv_geometry(3, method=method, taps=count, **old)
            # Dilation cannot move by part of a pixel.
            shift = 0.0 if phase == "ignored" or method == "dilate" else place.phase
            state[f"{name}.weight"] = rk.resample_conv(
                self.state[f"{name}.weight"], scale, method, taps=place.taps, phase=shift, **options
            )
            layers[name] = {"kernel": place.taps, "stride": place.stride, "padding": place.padding}
            size = -(-size // layer["stride"])
        counts = "/".join(str(n) for n in sorted({layer["kernel"] for layer in layers.values()}))
        return self.models.GlyphCNN.from_state_dict(state, layers), counts

    def _run(self, model: Any, size: int, noise: float) -> tuple[NDArray[np.float32], float]:
        """Last features and accuracy on the test images averaged down to `size`."""
        stored = self.images.shape[-1] / 16  # white noise of this times NOISE has NOISE left at the trained size
        x = self.torch.from_numpy(_reduced(self.images + noise * stored * self.noise, size))[:, None]
        with self.torch.inference_mode():
            features = self.torch.cat([model.features(part) for part in x.split(100)])
            guess = model.fc(features.mean((2, 3))).argmax(1)
        return features.numpy(), float((guess == self.labels).double().mean())


def _reduced(x: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    if x.shape[-1] == size:
        return x
    means = rk.grid_operator(x.shape[-1], size, "area", gain="none")
    return rk.resample(x, {-2: means, -1: means})


@contextmanager
def bands(end_of_pass: float, start_of_stop: float) -> Iterator[None]:
    """The design with other bands, for as long as the block runs."""
    before = optimal.PASS_BAND, optimal.STOP_BAND
    optimal.PASS_BAND, optimal.STOP_BAND = end_of_pass, start_of_stop
    try:
        yield
    finally:
        optimal.PASS_BAND, optimal.STOP_BAND = before


# --- output ----------------------------------------------------------------------------------------------------

FILTER_COLUMNS = {
    "scale": "g", "method": "", "taps": "", "count": "", "smoothness": "g",
    "kept": ".4f", "images": ".3f", "peak": ".2f", "kept_even": ".4f", "images_even": ".3f",
}  # fmt: skip
NETWORK_COLUMNS = {
    "scale": "g", "method": "", "taps": "", "count": "", "smoothness": "g", "phase": "", "gain": "",
    "accuracy": ".1%", "feature_error": ".3f", "accuracy_noisy": ".1%", "feature_error_noisy": ".3f", "seconds": ".1f",
}  # fmt: skip
BAND_COLUMNS = {
    "scale": "g", "pass": "g", "stop": "g", "smoothness": "g", "kept": ".4f", "images": ".3f", "peak": ".2f",
    "accuracy": ".1%", "feature_error": ".3f", "accuracy_noisy": ".1%", "feature_error_noisy": ".3f",
}  # fmt: skip
SUMMARY_COLUMNS = {
    "method": "", "taps": "", "smoothness": "g", "feature_error": ".3f", "feature_error_noisy": ".3f", "both": ".3f",
}  # fmt: skip


def _print(console: Console, title: str, rows: list[Row], columns: dict[str, str]) -> None:
    table = Table(title=title, title_justify="left", box=None)
    for name in columns:
        table.add_column(name, justify="left" if name in ("method", "taps") else "right")
    for row in rows:
        table.add_row(*("" if row.get(n) is None else format(row[n], spec) for n, spec in columns.items()))
    console.print(table)


def summary_rows(network: list[Row]) -> list[Row]:
    """Geometric mean over the whole scales, which every method can do, of each method's feature errors."""
    groups: dict[Any, list[Row]] = {}
    for row in network:
        if row["phase"] == "exact" and row["gain"] == "dc" and row["scale"] == int(row["scale"]):
            groups.setdefault((row["method"], row["taps"], row["smoothness"]), []).append(row)
    rows = []
    for (method, taps, smoothness), group in groups.items():
        clean, noisy = (
            float(np.exp(np.mean([np.log(r[name]) for r in group])))
            for name in ("feature_error", "feature_error_noisy")
        )
        row = {"method": method, "taps": taps, "smoothness": smoothness, "feature_error": clean}
        rows.append(row | {"feature_error_noisy": noisy, "both": float(np.sqrt(clean * noisy))})
    return rows


def draw(results: dict[str, Any], path: Path) -> None:
    """The trade-off in each filter, and what it does to the network's features without and with noise."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(SCALES, ("#CC79A7", "#0072B2", "#D55E00", "#009E73"), strict=True))
    network = results.get("network", [])
    fig, (left, *nets) = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    for scale in sorted({r["scale"] for r in results["filters"]}):
        colour = colours[scale]
        rows = _sweep(results["filters"], scale)
        left.loglog([r["kept"] for r in rows], [r["images"] for r in rows], "o-", ms=4, c=colour, label=f"{scale:g}x")
        chosen = next((r for r in rows if r["smoothness"] == CHOSEN), None)
        if chosen:
            left.loglog(chosen["kept"], chosen["images"], "o", ms=11, mfc="none", c=colour)
        rows = _sweep(network, scale)
        for axes, name in zip(nets, ("feature_error", "feature_error_noisy"), strict=True):
            axes.semilogx([max(r["smoothness"], ZERO_AT) for r in rows], [r[name] for r in rows], "o-", ms=4, c=colour)
            for method, style in (("dilate", ":"), ("cubic", "--")):
                for row in network:
                    key = (row["scale"], row["method"], row["taps"], row["phase"], row["gain"])
                    if key == (scale, method, "full", "exact", "dc"):
                        axes.axhline(row[name], ls=style, lw=1.2, c=colour)
    left.set(
        title="A 3-tap kernel, same extent; ring: the default",
        xlim=(1e-3, 0.4),
        xlabel="RMS error, 0 to 0.25 cycles per old sample",
        ylabel="RMS gain of images, 0.75 to s/2 cycles per old sample",
    )
    left.legend(fontsize=8)
    for axes, what in zip(nets, ("clean images", f"white noise of {NOISE:g}"), strict=True):
        axes.set(
            title=f"Glyph classifier, {what}",
            xlabel=f"smoothness (0 is drawn at {ZERO_AT:g})",
            ylabel="relative error of the last features",
        )
        axes.axvline(CHOSEN, c="0.85", lw=6, zorder=0)
        for style, label in (("o-", "optimal, same extent"), (":", "dilate"), ("--", "cubic, full")):
            axes.plot([], [], style, c="0.3", ms=4, label=label)
        axes.legend(fontsize=8, loc="upper center")
    for axes in (left, *nets):
        axes.grid(alpha=0.25)
    fig.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(fig)


ZERO_AT = 3e-5


def _sweep(rows: list[Row], scale: float) -> list[Row]:
    key = (scale, "optimal", "same-extent")
    return [r for r in rows if (r["scale"], r["method"], r["taps"]) == key and r.get("phase", "exact") == "exact"]


def _setting(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            "rekernel": rk.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "images": options.images,
        "noise": NOISE,
        "checkpoint_sha256": _digest(GLYPHS / "cnn.safetensors"),
        "default": {"smoothness": CHOSEN, "pass_band": optimal.PASS_BAND, "stop_band": optimal.STOP_BAND},
    }


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200, help="test images (at most 600)")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, choices=SCALES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
