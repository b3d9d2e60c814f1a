"""Draw the figures of docs/guidance.md: samples of the shipped diffusion model, and the schedules.

    python docs/figures/guidance.py [schedules] [samples] [sweep] [residual]

`samples` shows what benchmarks/accuracy/diffusion.py kept of its rows; `sweep` and `residual` sample anew (minutes).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
ACCURACY = HERE.parents[1] / "benchmarks" / "accuracy"
sys.path[:0] = [str(HERE), str(ACCURACY)]

from make import BLUE, GREEN, ORANGE, RED, STYLE  # noqa: E402 - beside this file

from rekernel.diffusion import (  # noqa: E402
    DiscreteSchedule,
    FlowSchedule,
    NoiseSchedule,
    VPSchedule,
    low_band_power,
    match,
)

SHOWN = 10  # digits a row
AT_TWICE = {
    "trained size, enlarged bicubically": "16x16, enlarged",
    "untouched": "untouched",
    "dilated inner": "dilated kernels",
    "optimal inner": "optimal kernels",
    "guidance (1, 1)": "upsample guidance",
    "guidance (1, 1) + optimal inner": "guidance and optimal kernels",
    "guidance (1.5, 1), smooth U": "guidance, theta 1.5, smooth U",
    "guidance (1.5, 1), smooth U + optimal inner, until 0.5": "and optimal kernels until 0.5",
}
AT_FOUR = {
    "trained size, enlarged bicubically": "16x16, enlarged",
    "untouched": "untouched",
    "dilated inner": "dilated kernels",
    "guidance (1, 1) in one step": "guidance, one step of 4",
    "nested: untouched / untouched": "nested guidance",
    "nested: optimal / optimal": "nested, optimal kernels",
    "nested (1.5, 1): untouched / untouched, smooth U": "nested, theta 1.5, smooth U",
    "nested (1.5, 1): optimal / optimal until 0.5, smooth U": "and optimal kernels until 0.5",
}
AT_EIGHT = {
    "untouched": "untouched",
    "nested (1.5, 1): untouched, smooth U": "nested guidance, theta 1.5",
    "nested (1.5, 1): optimal until 0.5, smooth U": "and optimal kernels until 0.5",
}
THETAS, ETAS = (0.0, 0.5, 1.0, 1.5, 2.5), (0.3, 0.6, 0.8, 1.0)


def schedules() -> Figure:
    """tau(t) and P(t) of common schedules, for factors of 2 and 4."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    known: dict[str, tuple[NoiseSchedule, str]] = {
        "Stable Diffusion 1.5 (scaled linear)": (DiscreteSchedule(np.cumprod(1 - betas)), BLUE),
        "cosine": (DiscreteSchedule(np.cos(np.linspace(0.01, 1.55, 1000)) ** 2), GREEN),
        "DDPM (linear beta)": (VPSchedule(), ORANGE),
        "rectified flow": (FlowSchedule(), RED),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.7), constrained_layout=True)
    left.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    for name, (schedule, colour) in known.items():
        t = np.linspace(0.001, 0.999, 300) * schedule.end
        for factor, line in ((2, "-"), (4, "--")):
            tau = match(schedule, t, 1 / factor).tau / schedule.end
            left.plot(t / schedule.end, tau, line, color=colour, label=name if factor == 2 else None)
            alpha, sigma = schedule.alpha(schedule.log_snr(t)), schedule.sigma(schedule.log_snr(t))
            right.plot(t / schedule.end, low_band_power(alpha**2, factor, sigma**2), line, color=colour)
    left.set(
        xlabel="time t / T of the full-size image",
        ylabel="matched time tau / T",
        title="Time of the low-resolution pass",
    )
    right.set(xlabel="time t / T", ylabel="P", ylim=(0, 1.05), title="Power of the reduced image")
    left.plot([], [], "--", color="#444444", label="factor 4 (solid: 2)")
    left.legend(frameon=False, fontsize=8)
    return figure


def samples(scale: int, rows: dict[str, str]) -> Figure:
    """One line of pictures for each way of sampling, from the same noise."""
    kept = np.load(ACCURACY / "results" / f"diffusion-{scale}x.npz")
    here = {label: kept[name][:SHOWN] for name, label in rows.items() if name in kept}
    return _sheet(
        here, f"{16 * scale}x{16 * scale} from a model trained at 16x16, 20 DDIM steps, the same noise in every row"
    )


def sweep() -> Figure:
    """A contact sheet over theta and eta: one digit each, the same noise."""
    from diffusion import load, sample
    from diffusion_rows import Row

    pipe = load()
    pictures = {
        f"theta {theta:g}": np.concatenate(
            [sample(pipe, Row("", {}, {"theta": theta, "eta": eta}), 2, 4)[1:4] for eta in ETAS]
        )
        for theta in THETAS
    }
    columns = ", ".join(f"{eta:g}" for eta in ETAS)
    return _sheet(pictures, f"optimal inner kernels; three digits each for eta = {columns} from left to right")


def residual() -> Figure:
    """What the full-size pass adds: the guided picture less its own low band, at several times."""
    from diffusion import asked, load

    from rekernel.diffusion import SupersampledKernels, UpsampleGuidance, block_split

    pipe, split = load(), block_split((32, 32), 2)
    labels = torch.from_numpy(asked(SHOWN))
    x = torch.randn(SHOWN, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    pipe.scheduler.set_timesteps(20)
    rows: dict[str, NDArray[np.float32]] = {}
    with torch.inference_mode(), SupersampledKernels(2).attach(pipe), UpsampleGuidance(2).attach(pipe):
        for step, t in enumerate(pipe.scheduler.timesteps):
            predicted = pipe.unet(x, t, class_labels=labels).sample
            done = pipe.scheduler.step(predicted, t, x, use_clipped_model_output=True)
            x, clean = done.prev_sample, done.pred_original_sample
            if step in (4, 9, 14, 19):
                low = split.enlarge_grid(split.reduce_grid(clean))
                rows[f"t = {int(t)}: x0"] = (clean[:, 0] / 2 + 0.5).numpy()
                rows[f"t = {int(t)}: x0 - UD x0"] = ((clean - low)[:, 0] + 0.5).clamp(0, 1).numpy()
    return _sheet(rows, "the predicted picture, and what only the full-size pass knows of it (grey is zero)")


def _sheet(rows: dict[str, NDArray[Any]], title: str) -> Figure:
    count = max(len(images) for images in rows.values())
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(2.2 + 0.72 * count, 0.8 * len(rows) + 0.4), squeeze=False, constrained_layout=True
    )
    for axis, (label, images) in zip(axes[:, 0], rows.items(), strict=True):
        white = 255 if images.dtype == np.uint8 else 1
        wide = np.concatenate([np.pad(image, 1, constant_values=white) for image in images], axis=1)
        axis.imshow(wide, cmap="gray", interpolation="nearest", vmin=0, vmax=white)
        axis.set_axis_off()
        axis.text(-0.01, 0.5, label, transform=axis.transAxes, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


FIGURES: dict[str, Callable[[], dict[str, Figure]]] = {
    "schedules": lambda: {"schedules": schedules()},
    "samples": lambda: {
        f"samples-{scale}x": samples(scale, rows) for scale, rows in ((2, AT_TWICE), (4, AT_FOUR), (8, AT_EIGHT))
    },
    "sweep": lambda: {"sweep": sweep()},
    "residual": lambda: {"residual": residual()},
}


def main() -> None:
    """Draw what is named, or everything."""
    with plt.style.context("default"), plt.rc_context(STYLE):
        for wanted in sys.argv[1:] or FIGURES:
            for name, figure in FIGURES[wanted]().items():
                figure.savefig(HERE / f"guidance-{name}.png", bbox_inches="tight")
                plt.close(figure)


if __name__ == "__main__":
    main()
