"""The figure of the demo: a trained kernel before and after conversion, with frequency responses.

Scope: matplotlib, imported on call. Not here: measuring (see `demonstration.run`). The figure converts the example
files again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from .run import convert_example, examples

_LAYER, _OUT = "conv3.weight", 0  # layer and output channel; the input channel with the largest kernel is drawn
_SHOWN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dilate", {"method": "dilate"}),
    ("linear, full", {"method": "linear"}),
    ("cubic, full", {"method": "cubic"}),
    ("optimal", {"method": "optimal"}),
)


def draw(out: Path) -> Path | None:
    """Write demo.png into `out` and return the path; return None if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    weights = load_file(examples() / "cnn.safetensors")[_LAYER]
    channel = int(np.abs(weights[_OUT]).sum(axis=(1, 2)).argmax())
    before = weights[_OUT, channel]
    kernels: list[tuple[str, NDArray[Any], float]] = [("trained, 3x3", before, 1.0)]
    for label, options in _SHOWN:
        target = out / "figure.safetensors"
        convert_example("cnn", 2, target, mode="supersample", **options)
        after = load_file(target)[_LAYER][_OUT, channel]
        target.unlink()
        kernels.append((f"{label}, {after.shape[0]}x{after.shape[1]}", after, 2.0))
    figure, axes = pyplot.subplots(2, len(kernels), figsize=(3.0 * len(kernels), 6.2), layout="constrained")
    peak = max(float(np.nanmax(np.abs(_response(k, s)))) for _, k, s in kernels)
    for column, (label, kernel, scale) in enumerate(kernels):
        extent = np.abs(kernel).max()
        top, bottom = axes[0, column], axes[1, column]
        half = kernel.shape[0] / 2 / scale
        top.imshow(kernel, cmap="RdBu_r", vmin=-extent, vmax=extent, extent=(-half, half, half, -half))
        top.set(title=label, xlim=(-3, 3), ylim=(3, -3), facecolor="0.93")
        bottom.imshow(
            np.abs(_response(kernel, scale)), cmap="viridis", vmin=0, vmax=peak, extent=(-1, 1, 1, -1), origin="upper"
        )
        # The dashed square is the limit of the trained band; outside are aliases.
        bottom.plot([-0.5, 0.5, 0.5, -0.5, -0.5], [-0.5, -0.5, 0.5, 0.5, -0.5], color="white", lw=1, ls="--")
        bottom.set(xlim=(-1, 1), ylim=(1, -1), facecolor="0.93")
    axes[0, 0].set_ylabel("taps, in old pixels")
    axes[1, 0].set_ylabel("gain, cycles per old pixel")
    figure.suptitle(
        f"Glyph CNN, conv3[{_OUT}, {channel}] supersampled by 2: kernels (top) and their frequency responses (bottom). "
        "Dashed: the trained band; energy outside the square is aliased.",
        fontsize=11,
    )
    path = out / "demo.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _response(kernel: NDArray[Any], scale: float, points: int = 129) -> NDArray[Any]:
    """Return H(fy, fx) for -1..1 cycles per old pixel; NaN above 1/2 for the trained kernel, the limit of its grid."""
    frequencies = np.linspace(-1, 1, points)
    positions = (np.arange(kernel.shape[0]) - (kernel.shape[0] - 1) / 2) / scale
    waves = np.exp(-2j * np.pi * np.outer(frequencies, positions))
    response = waves @ kernel @ waves.T
    if scale == 1:
        inside = np.abs(frequencies) <= 0.5
        response = np.where(np.outer(inside, inside), response, np.nan)
    return np.asarray(response)
