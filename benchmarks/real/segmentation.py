"""What a segmentation network knows at twice its size: mean IoU on scenes with true labels.

    python benchmarks/real/segmentation.py              # the shipped networks, three seeds
    python benchmarks/real/segmentation.py --train      # trains them again first, on one core

Scope: a U-Net trained at 48x48 on area averages of scenes and tested on the scenes themselves, 96x96; the mean IoU of
every row. Not here: scenes (see `segmentation_scenes`), the network and its training (see `segmentation_unet`), the
files of Fashion-MNIST (see `fashion_data`). Writes results/segmentation.json.

The rival is what anybody would do: reduce the picture to 48x48, run the network, enlarge its logits.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fashion_data
import torch
from rich.console import Console
from rich.table import Table
from segmentation_scenes import CLASSES, SIDE, confusion, mean_iou, reduced_labels, scenes
from segmentation_unet import UNet, load, save, train
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel as rk
import rekernel.torch as rkt

HERE = Path(__file__).resolve().parent
RESULTS, WEIGHTS = HERE / "results" / "segmentation.json", HERE / "weights" / "segmentation"
SCALE = 2
STEPS, BATCH = 1800, 16
TEST = 1000  # scenes of a test set are drawn from (TEST, number of the set): training draws from (seed, step)

METHODS: dict[str, dict[str, Any]] = {
    "optimal, smoothness .001": {"method": "optimal", "smoothness": 0.001},
    "optimal, smoothness .003": {"method": "optimal", "smoothness": 0.003},
    "optimal, smoothness .01": {"method": "optimal", "smoothness": 0.01},
    "optimal, smoothness .05": {"method": "optimal", "smoothness": 0.05},
    "optimal, full support": {"method": "optimal", "taps": "full"},
    "optimal-filter, factored": {"method": "optimal-filter", "form": "factored"},
    "dilate": {"method": "dilate", "form": "factored"},
    "cubic": {"method": "cubic", "form": "factored"},
    "linear": {"method": "linear", "form": "factored"},
    "lanczos3": {"method": "lanczos3", "form": "factored"},
}
"""How the inner layers are rescaled. The factored form computes the same function and takes less time."""
FURTHER_SETS = 3
FURTHER = ("optimal, smoothness .003", "optimal, smoothness .01", "dilate")
"""Rows, read by area, that are tested on further sets of scenes too, beside the default and the rival."""

Row = dict[str, Any]
Logits = Callable[[Tensor], Tensor]
"""From pictures of 96x96 pixels to logits of as many."""


def main() -> None:
    """Train where asked, measure, print, write."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.train:
        train_all(options)
    rows = []
    pieces = fashion_data.load("test", folder=options.data)
    for number in range(options.sets):
        pictures, truth = scenes(pieces.x[:, 0].numpy(), pieces.y.numpy(), options.scenes, (TEST, number))
        for seed in options.seeds:
            model = load(WEIGHTS / f"seed-{seed}.safetensors", CLASSES)
            reduced = F.avg_pool2d(pictures, SCALE)
            small = score(model, reduced, reduced_labels(truth, SCALE))
            rows.append({"group": "trained size", "row": "48x48", "seed": seed, "set": number, "iou": small})
            for group, name, larger in candidates(model, further=number > 0 or seed != options.seeds[0]):
                start = time.process_time()
                iou = score(larger, pictures, truth)
                spent = 1000 * (time.process_time() - start) / len(pictures)
                rows.append({"group": group, "row": name, "seed": seed, "set": number, "iou": iou,
                             "cpu_ms_per_scene": round(spent, 2)})  # fmt: skip
                print(f"set {number}, seed {seed}, {name}: {100 * iou:.1f}", flush=True)
    setting = {
        "trained": SIDE // SCALE, "tested": SIDE, "scenes": options.scenes, "sets": options.sets,
        "seeds": options.seeds, "steps": STEPS, "batch": BATCH, "threads": options.threads,
        "weights": sum(p.numel() for p in UNet(CLASSES).parameters()),
        "cpu_minutes": round(time.process_time() / 60, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "rekernel": rk.__version__},
    }  # fmt: skip
    Console(width=120).print(table(rows, setting))
    if options.out is not None:
        options.out.parent.mkdir(exist_ok=True)
        rounded = [{k: round(v, 5) if k == "iou" else v for k, v in row.items()} for row in rows]
        options.out.write_text(json.dumps({"setting": setting, "rows": rounded}, indent=1) + "\n")


def candidates(model: UNet, *, further: bool) -> Iterator[tuple[str, str, Logits]]:
    """Group, name and network of every row, or with `further` of those that are tested on every set and seed."""
    example = torch.zeros(1, 1, SIDE // SCALE, SIDE // SCALE)

    def rescaled(**how: Any) -> Logits:
        return rkt.rescale(model, SCALE, example, **how).eval()

    def rival(mode: str) -> Logits:
        return lambda x: F.interpolate(model(F.avg_pool2d(x, SCALE)), scale_factor=SCALE, mode=mode)

    for mode in ("bilinear", "bicubic"):
        yield "rival", f"picture reduced, logits enlarged ({mode})", rival(mode)
    yield "rescaled", "default", rescaled()
    for name, how in METHODS.items():
        if not further or name in FURTHER:
            yield "read by area", f"{name}, read by area", rescaled(mode="supersample", reading_filter="area", **how)
    if not further:
        yield "untouched", "untouched", model
        for name, how in METHODS.items():
            yield "read alike", name, rescaled(mode="supersample", **how)


def score(network: Logits, pictures: Tensor, truth: Tensor, batch: int = 10) -> float:
    """Mean IoU of the classes that `network` names."""
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    with torch.inference_mode():
        for part, true in zip(pictures.split(batch), truth.split(batch), strict=True):
            counts += confusion(network(part).argmax(1), true)
    return mean_iou(counts)


def train_all(options: argparse.Namespace) -> None:
    """Train a network from every seed and write its weights, as float16."""
    pieces = fashion_data.load("train", folder=options.data)
    x, y = pieces.x[:, 0].numpy(), pieces.y.numpy()
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:

        def draw(step: int, seed: int = seed) -> tuple[Tensor, Tensor]:
            pictures, truth = scenes(x, y, BATCH, (seed, step))
            return F.avg_pool2d(pictures, SCALE), reduced_labels(truth, SCALE, step)

        model = train(draw, CLASSES, steps=STEPS, seed=seed, say=lambda text: print(text, flush=True))
        save(model, WEIGHTS / f"seed-{seed}.safetensors")


def table(rows: list[Row], setting: Row) -> Table:
    """Mean IoU in percent by row: each set of scenes, and each seed on the first set."""
    seeds, sets = setting["seeds"], range(setting["sets"])
    made = Table(
        title=f"Mean IoU in %, {setting['scenes']} scenes a set; sets: mean over the seeds; ms: CPU time a scene",
        title_justify="left",
        box=None,
    )
    made.add_column("row")
    for column in [*(f"seed {s}" for s in seeds), *(f"set {n}" for n in sets), "ms"]:
        made.add_column(column, justify="right")
    group = rows[0]["group"]
    for name, kin in {row["row"]: row["group"] for row in rows}.items():
        if kin != group:
            made.add_section()
            group = kin
        found = [row for row in rows if row["row"] == name]
        by_seed = [_mean(row["iou"] for row in found if row["set"] == 0 and row["seed"] == s) for s in seeds]
        by_set = [_mean(row["iou"] for row in found if row["set"] == n) for n in sets]
        whole = {row["seed"] for row in found} == set(seeds)
        ms = [row["cpu_ms_per_scene"] for row in found if "cpu_ms_per_scene" in row]
        made.add_row(
            name, *by_seed, *(text if whole else "" for text in by_set), f"{statistics.fmean(ms):.0f}" if ms else ""
        )
    return made


def _mean(values: Iterator[float]) -> str:
    found = list(values)
    return f"{100 * statistics.fmean(found):.1f}" if found else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=fashion_data.FOLDER, metavar="DIR",
                        help="folder with the four IDX files of Fashion-MNIST")  # fmt: skip
    parser.add_argument("--train", action="store_true", help="train the networks again and replace their weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=200, help="scenes in a set")
    parser.add_argument("--sets", type=int, default=1 + FURTHER_SETS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="20 scenes, one set, one seed, and no result file")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.scenes, options.sets, options.seeds, options.out = 20, 1, options.seeds[:1], None
    return options


if __name__ == "__main__":
    main()
