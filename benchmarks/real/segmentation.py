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
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
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

FLAT = {"method": "optimal", "smoothness": 0.003}
METHODS: dict[str, dict[str, Any]] = {
    "optimal, smoothness .001": {"method": "optimal", "smoothness": 0.001},
    "optimal, smoothness .003": FLAT,
    "optimal, smoothness .01": {"method": "optimal", "smoothness": 0.01},
    "optimal, smoothness .05": {"method": "optimal", "smoothness": 0.05},
    "optimal, full support": {"method": "optimal", "taps": "full"},
    "optimal-filter, factored": {"method": "optimal-filter", "form": "factored"},
    "dilate": {"method": "dilate", "form": "factored"},
    "cubic": {"method": "cubic", "form": "factored"},
    "linear": {"method": "linear", "form": "factored"},
    "lanczos3": {"method": "lanczos3", "form": "factored"},
}
"""How layers are rescaled. The factored form computes the same function and takes less time."""
READERS: dict[str, dict[str, Any]] = {
    "linear": {"reading_filter": "linear"},
    "cubic": {"reading_filter": "cubic"},
    "lanczos3": {"reading_filter": "lanczos3"},
    "optimal, 7 taps": {"methods": {"fine.0": {"taps": 7}}},
    "optimal, 9 taps": {"methods": {"fine.0": {"taps": 9}}},
}
"""How the layer that reads the picture is rescaled, before inner layers by FLAT."""
FURTHER_SETS = 3
FURTHER = {
    "optimal, smoothness .003",
    "optimal, smoothness .003, read by area",
    "optimal, smoothness .003, read by lanczos3",
    "optimal, smoothness .003, read by optimal, 7 taps",
    "optimal, smoothness .003, read by optimal, 9 taps",
    "dilate, read by area",
}
"""Rows that are tested on further sets of scenes too, beside the default and the rival."""

Row = dict[str, Any]
Logits = Callable[[Tensor], Tensor]
"""From pictures of 96x96 pixels to logits of as many."""


def main() -> None:
    """Train where asked, measure, print, write."""
    options = _options()
    torch.set_num_threads(1)
    if options.train:
        train_all(options)
    jobs = [(number, seed) for number in range(options.sets + 1) for seed in options.seeds]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        done = list(pool.map(partial(_of_set, options), *zip(*jobs, strict=True)))
    found = {number: [row for (n, _), (part, _) in zip(jobs, done, strict=True) if n == number for row in part]
             for number in range(options.sets + 1)}  # fmt: skip
    rows: list[Row] = [{"set": number, **row} for number in range(options.sets) for row in found[number]]
    gratings = found[options.sets]
    setting = {
        "trained": SIDE // SCALE, "tested": SIDE, "scenes": options.scenes, "sets": options.sets,
        "seeds": options.seeds, "steps": STEPS, "batch": BATCH, "threads": 1, "workers": workers,
        "weights": sum(p.numel() for p in UNet(CLASSES).parameters()),
        "cpu_minutes": round(sum(spent for _, spent in done) / 60, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "rekernel": rk.__version__},
    }  # fmt: skip
    console = Console(width=120)
    console.print(table(rows, setting))
    console.print(gratings_table(gratings, setting))
    if options.out is not None:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps({"setting": setting, "rows": rows, "gratings": gratings}, indent=1) + "\n")


def _of_set(options: argparse.Namespace, number: int, seed: int) -> tuple[list[Row], float]:
    """The rows of one network on one set of scenes, and the seconds of CPU time that they took.

    The last set has another ground: gratings.
    """
    torch.set_num_threads(1)
    start = time.process_time()
    pieces = fashion_data.load("test", folder=options.data)
    x, y = pieces.x[:, 0].numpy(), pieces.y.numpy()
    count, ground = options.scenes if number == 0 else options.scenes // 2, {}
    if number == options.sets:
        ground = {"ground": "gratings"}
    drawn = scenes(x, y, count, (TEST, number), **ground)
    rows = measured(drawn, [seed], every=number == 0 and seed == options.seeds[0])
    return rows, time.process_time() - start


def measured(drawn: tuple[Tensor, Tensor], seeds: list[int], *, every: bool) -> list[Row]:
    """Mean IoU on one set of scenes of the network of each seed.

    The first seed's network has all rows with `every`; the others have those that every set has.
    """
    pictures, truth = drawn
    reduced, fewer = F.avg_pool2d(pictures, SCALE), reduced_labels(truth, SCALE)
    rows = []
    for seed in seeds:
        model = load(WEIGHTS / f"seed-{seed}.safetensors", CLASSES)
        small = round(score(model, reduced, fewer), 5)
        rows.append({"group": "trained size", "row": "trained size, 48x48", "seed": seed, "iou": small})
        for group, name, larger in candidates(model, every=every and seed == seeds[0]):
            start = time.process_time()
            iou = round(score(larger, pictures, truth), 5)
            spent = round(1000 * (time.process_time() - start) / len(pictures), 2)
            rows.append({"group": group, "row": name, "seed": seed, "iou": iou, "cpu_ms_per_scene": spent})
            print(f"seed {seed}, {name}: {100 * iou:.1f}", flush=True)
    return rows


def candidates(model: UNet, *, every: bool) -> Iterator[tuple[str, str, Logits]]:
    """Group, name and network of every row, or without `every` of those that all sets have."""
    example = torch.zeros(1, 1, SIDE // SCALE, SIDE // SCALE)

    def rival(mode: str) -> Logits:
        return lambda x: F.interpolate(model(F.avg_pool2d(x, SCALE)), scale_factor=SCALE, mode=mode)

    for mode in ("bilinear", "bicubic"):
        yield "rival", f"picture reduced, logits enlarged ({mode})", rival(mode)
    yield "untouched", "untouched", model
    yield "rescaled", "default", rkt.rescale(model, SCALE, example).eval()
    named = [("read alike", name, how) for name, how in METHODS.items()]
    named += [
        ("read by area", f"{name}, read by area", {"reading_filter": "area", **how}) for name, how in METHODS.items()
    ]
    named += [
        ("other readers", f"optimal, smoothness .003, read by {name}", FLAT | how) for name, how in READERS.items()
    ]
    for group, name, how in named:
        if every or name in FURTHER:
            yield group, name, rkt.rescale(model, SCALE, example, mode="supersample", **how).eval()


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
    """Mean IoU in percent by row: each seed on the first set of scenes, and the mean over the seeds on every set."""
    seeds, sets = setting["seeds"], range(setting["sets"])
    made = _headed(
        f"Mean IoU in %, {setting['scenes']} scenes in set 0, half of that in the others; ms: CPU time a scene",
        [*(f"seed {s}" for s in seeds), *(f"set {n}" for n in sets), "ms"],
    )
    for found in _grouped(rows, made):
        by_seed = [_mean(r["iou"] for r in found if r["set"] == 0 and r["seed"] == s) for s in seeds]
        whole = len({r["seed"] for r in found}) == len(seeds)
        by_set = [_mean(r["iou"] for r in found if r["set"] == n and whole) for n in sets]
        spent = [r["cpu_ms_per_scene"] for r in found if "cpu_ms_per_scene" in r]
        made.add_row(found[0]["row"], *by_seed, *by_set, f"{statistics.fmean(spent):.0f}" if spent else "")
    return made


def gratings_table(rows: list[Row], setting: Row) -> Table:
    """Mean IoU in percent on the scenes whose ground is too fine for the trained size."""
    made = _headed("Mean IoU in %, ground of gratings", [*(f"seed {s}" for s in setting["seeds"]), "mean"])
    for found in _grouped(rows, made):
        made.add_row(found[0]["row"], *(_mean([r["iou"]]) for r in found), _mean(r["iou"] for r in found))
    return made


def _headed(title: str, columns: list[str]) -> Table:
    made = Table(title=title, title_justify="left", box=None)
    made.add_column("row")
    for column in columns:
        made.add_column(column, justify="right")
    return made


def _grouped(rows: list[Row], made: Table) -> Iterator[list[Row]]:
    """The measurements of each row; between groups of rows, a line in `made`."""
    group = ""
    for name, kin in {row["row"]: row["group"] for row in rows}.items():
        if group not in ("", kin):
            made.add_section()
        group = kin
        yield [row for row in rows if row["row"] == name]


def _mean(values: Iterable[float]) -> str:
    found = list(values)
    return f"{100 * statistics.fmean(found):.1f}" if found else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=fashion_data.FOLDER, metavar="DIR",
                        help="folder with the four IDX files of Fashion-MNIST")  # fmt: skip
    parser.add_argument("--train", action="store_true", help="train the networks again and replace their weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", type=int, default=200, help="scenes in the first set; the others have half of that")
    parser.add_argument("--sets", type=int, default=1 + FURTHER_SETS)
    parser.add_argument("--quick", action="store_true", help="20 scenes, one set, one seed, and no result file")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.scenes, options.sets, options.seeds, options.out = 20, 1, options.seeds[:1], None
    return options


if __name__ == "__main__":
    main()
