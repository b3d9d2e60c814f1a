"""Train at 14x14, rescale, fine-tune at 28x28, against training at 28x28 from the start: accuracy, time and memory.

    python benchmarks/real/training.py             # some five minutes on two cores
    python benchmarks/real/training.py --quick     # 60 steps, one seed, 1,000 test pictures
    python benchmarks/real/training.py --tune      # chooses the learning rates again first: some ten minutes more

Scope: the order of the measurement, learning rates, and printing. Not here: the arms, the training loop and what a step
costs (see `training_arms`), pictures (see `fashion_data`), the network and its shipped weights (see `fashion_networks`,
`fashion_train`).
The pictures are Fashion-MNIST's, the network is the strided CNN. Scores are of the test pictures: all 10,000 before the
first and after the last step, the first 4,000 between them. Writes results/training.json.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import multiprocessing
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fashion_data import FOLDER, Pictures, accuracy_and_f1, load
from fashion_networks import SEEDS, cnn, load_network
from fashion_train import predicted, recorded
from rich.console import Console
from rich.table import Table
from torch import nn
from training_arms import (
    AREA,
    ARMS,
    AS_LARGE,
    BATCH,
    FULL_STEPS,
    IN_FULL,
    LARGE,
    LONG,
    NOTHING,
    OPTIMAL,
    READ_OPTIMAL,
    RECIPE,
    SMALL,
    STEPS,
    TRAIN_LARGE,
    TRAIN_SMALL,
    UNTOUCHED,
    costs,
    fit,
    needs_small,
    network,
    rescaling_seconds,
    training,
)

import rekernel as rk
import rekernel.torch as rkt

HERE = Path(__file__).resolve().parent
MARKS = (60, 120, 240, STEPS)
RECALIBRATING = 1_500  # training pictures, without their labels
DURING = 4_000  # test pictures for the scores between the first and the last
SHIPPED_LARGE = f"{TRAIN_LARGE}, shipped"
HELD_OUT = 10_000  # the last training pictures, which judge the learning rates
CANDIDATES = (5e-4, 2e-3, 8e-3, 3.2e-2)
CANDIDATES_FULL = (1e-2, 2.5e-2, 6.25e-2)  # of as many steps as training from the start; the shipped networks have 1e-2

# Found by --tune, of seed 0: the rate with the best accuracy on HELD_OUT training pictures after all steps, which were
# made on the other 50,000 from a network trained at 14 on these 50,000. No test picture was looked at.
RATES = {
    TRAIN_LARGE: 6.25e-2,
    AREA: 5e-4,
    READ_OPTIMAL: 2e-3,
    "supersampled, dilated": 8e-3,
    "supersampled, dilated, dense": 8e-3,
    OPTIMAL: 8e-3,
    UNTOUCHED: 3.2e-2,
    NOTHING: 3.2e-2,
    AS_LARGE: 3.2e-2,
    AREA + IN_FULL: 2.5e-2,
    READ_OPTIMAL + IN_FULL: 6.25e-2,
    OPTIMAL + IN_FULL: 1e-2,
    AS_LARGE + IN_FULL: 6.25e-2,
}
COLUMNS = (
    "from", "0", "batch norm", *map(str, MARKS[:-1]), "end", "rate", "weights",
    f"picture / {SMALL}", f"picture / {LARGE}", "time", "peak MB", "memory",
)  # fmt: skip
TUNED = HERE / "results" / "training-rates.json"

Row = dict[str, Any]


class Job(NamedTuple):
    """One training: an arm, the seed, the highest rate, and at most how many steps and test pictures."""

    arm: str
    seed: int
    rate: float
    folder: Path
    most: int = FULL_STEPS
    pictures: int = 10_000
    small: dict[str, Any] | None = None  # state of the network trained at 14, where it is not the shipped one


def main() -> None:
    """Measure, print, write."""
    options = _options()
    torch.set_num_threads(1)
    load("test", LARGE, options.data)  # says what is missing before any process starts
    console, began = Console(width=150), time.perf_counter()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seeds = SEEDS[: 1 if options.quick else options.seeds]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        rates = _tuned(pool, options.data, console) if options.tune else RATES
        sizes = {"most": MARKS[0], "pictures": 1000} if options.quick else {}
        jobs = [
            Job(arm, seed, rates[arm], options.data, **sizes)
            for seed in seeds
            for arm in RATES
            if seed == 0 or arm not in LONG
        ]
        runs = list(pool.map(measured, jobs))
    cost = costs()
    references = [_reference(name, seeds) for name in (TRAIN_SMALL, SHIPPED_LARGE)]
    summary = summarised(runs, references, cost)
    setting = {
        "versions": {"rekernel": rk.__version__, "torch": torch.__version__}, "processor": _processor(),
        "workers": workers, "minutes": round((time.perf_counter() - began) / 60, 1), "load": os.getloadavg()[0],
        "seeds": list(seeds), "arms": ARMS, "rates": rates, "fine_tuning": {"steps": STEPS, "batch": BATCH},
        "from_the_start": {"steps": FULL_STEPS, "batch": RECIPE.batch, "rate": RECIPE.rate},
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table = shown(summary)
    results = {"setting": setting, "columns": COLUMNS, "table": table, "summary": summary, "runs": runs}
    options.out.write_text(_json(results))
    _print(console, table, len(seeds))
    console.print(f"{setting['minutes']} minutes; written to {options.out}", highlight=False)


# --- measuring -------------------------------------------------------------------------------------------------


def measured(job: Job) -> Row:
    """Train one arm, and score it on test pictures before, during and after."""
    torch.set_num_threads(1)
    model = network(job.arm, job.seed)
    train, test = _pictures("train", LARGE, job.folder), _pictures("test", LARGE, job.folder)
    how = training(job.arm)
    how = how._replace(rate=job.rate, steps=min(how.steps, job.most))
    found = {0: _accuracy(model.eval(), test, job.pictures)}
    ready = copy.deepcopy(model)
    rkt.recalibrate(ready, train.x[:RECALIBRATING].split(500))
    recalibrated = _accuracy(ready, test, job.pictures)

    def mark(step: int) -> None:
        found[step] = _accuracy(model, test, job.pictures if step == how.steps else min(DURING, job.pictures))

    seconds = fit(model, train, how, job.seed, (*MARKS, how.steps), mark)
    weights = sum(p.numel() for p in model.parameters())
    f1 = accuracy_and_f1(predicted(model, test.x[: job.pictures]), test.y[: job.pictures])[1]
    return {
        "arm": job.arm, "seed": job.seed, "steps": how.steps, "rate": job.rate, "weights": weights,
        "accuracy": found, "recalibrated": recalibrated, "f1": round(f1, 2), "seconds": round(seconds, 1),
    }  # fmt: skip


def judged(job: Job) -> Row:
    """Train one arm on all but the held-out training pictures, and score it on these."""
    torch.set_num_threads(1)
    train = _pictures("train", SMALL if job.arm == TRAIN_SMALL else LARGE, job.folder)
    small = cnn(SMALL).eval()
    if job.small is not None:
        small.load_state_dict(job.small)
    model = network(job.arm, job.seed, small)
    seen, kept = (Pictures(train.x[part], train.y[part]) for part in (slice(-HELD_OUT), slice(-HELD_OUT, None)))
    fit(model, seen, training(job.arm)._replace(rate=job.rate), job.seed)
    return {"arm": job.arm, "rate": job.rate, "accuracy": _accuracy(model, kept, HELD_OUT)}


def _tuned(pool: ProcessPoolExecutor, folder: Path, console: Console) -> dict[str, float]:
    """The best of the candidates for each arm; writes TUNED."""
    train = load("train", SMALL, folder)
    small = network(TRAIN_SMALL, 0)
    fit(small, Pictures(train.x[:-HELD_OUT], train.y[:-HELD_OUT]), training(TRAIN_SMALL))
    state = small.state_dict()
    jobs = [Job(arm, 0, rate, folder, small=state) for arm in ARMS if arm not in LONG for rate in CANDIDATES]
    whole = (TRAIN_SMALL, TRAIN_LARGE, *LONG)
    jobs += [Job(arm, 0, rate, folder, small=state) for arm in whole for rate in CANDIDATES_FULL]
    found: dict[str, dict[float, float]] = {}
    for row in pool.map(judged, jobs):
        console.print(json.dumps(row), highlight=False)
        found.setdefault(row["arm"], {})[row["rate"]] = row["accuracy"]
    TUNED.parent.mkdir(parents=True, exist_ok=True)
    TUNED.write_text(json.dumps(found, indent=1) + "\n")
    return {arm: max(scores, key=lambda rate: scores[rate]) for arm, scores in found.items() if arm in RATES}


@functools.cache
def _pictures(part: str, size: int, folder: Path) -> Pictures:
    return load(part, size, folder)


def _accuracy(model: nn.Module, pictures: Pictures, count: int) -> float:
    return round(accuracy_and_f1(predicted(model, pictures.x[:count]), pictures.y[:count])[0], 2)


# --- output ----------------------------------------------------------------------------------------------------


def summarised(runs: list[Row], references: list[Row], cost: dict[str, Row]) -> list[Row]:
    """Means over the seeds by arm, with the cost of a step and of the whole way, beside the training from the start.

    `seconds_whole` is training at 14, rescaling and fine-tuning together, from the milliseconds of a step; `peak_whole`
    the larger of the peaks of training at 14 and of fine-tuning. `time` and `memory` are these, divided by those of
    training at 28 from the start; `picture_14` and `picture_28` the time of a picture in a step, divided by that of
    training at 14 and at 28.
    """
    groups: dict[str, list[Row]] = {}
    for run in runs:
        groups.setdefault(run["arm"], []).append(run)
    rows = [*references, *(_mean(group) for group in groups.values())]
    first, whole = cost[TRAIN_SMALL], cost[TRAIN_LARGE]
    for row in rows:
        row |= (own := cost[TRAIN_LARGE if row["arm"] == SHIPPED_LARGE else row["arm"]])
        built = row["arm"] == SHIPPED_LARGE or not needs_small(row["arm"])
        each = own["ms"] / own["batch"]
        row |= {f"picture_{n}": each * c["batch"] / c["ms"] for n, c in ((SMALL, first), (LARGE, whole))}
        before = 0.0 if built else FULL_STEPS * first["ms"] / 1000 + row.get("seconds_rescaling", 0.0)
        row["seconds_whole"] = before + row["steps"] * own["ms"] / 1000
        row["peak_whole"] = own["peak_mb"] if built else max(own["peak_mb"], first["peak_mb"])
        row["time"] = 1000 * row["seconds_whole"] / (FULL_STEPS * whole["ms"])
        row["memory"] = row["peak_whole"] / whole["peak_mb"]
    return [
        {key: round(v, 3) if isinstance(v, float) and key != "rate" else v for key, v in row.items()} for row in rows
    ]


def _mean(group: list[Row]) -> Row:
    first = group[0]
    row = {key: first[key] for key in ("arm", "steps", "rate", "weights")}
    row["accuracy"] = {step: statistics.fmean(run["accuracy"][step] for run in group) for step in first["accuracy"]}
    row["accuracy"] = {step: round(value, 2) for step, value in row["accuracy"].items()}
    row |= {key: statistics.fmean(run[key] for run in group) for key in ("recalibrated", "f1", "seconds")}
    if ARMS.get(row["arm"].removesuffix(IN_FULL)) is not None:
        row["seconds_rescaling"] = rescaling_seconds(row["arm"])
    return row


def _reference(arm: str, seeds: tuple[int, ...]) -> Row:
    """The shipped networks trained from the start at 14 or at 28, with their recorded scores."""
    size = SMALL if arm == TRAIN_SMALL else LARGE
    held = [r for r in recorded() if (r["network"], r["size"]) == ("CNN", size) and r["seed"] in seeds]
    if len(held) < len(seeds):
        raise SystemExit(f"no score of the CNN at {size}x{size} of every seed; train it with fashion_train.py")
    weights = sum(p.numel() for p in load_network("CNN", size, 0).parameters())
    accuracy, f1 = (statistics.fmean(r[score] for r in held) for score in ("accuracy", "f1"))
    row = {"arm": arm, "steps": FULL_STEPS, "rate": RECIPE.rate, "weights": weights}
    return {**row, "accuracy": {FULL_STEPS: round(accuracy, 2)}, "f1": f1}


def shown(summary: list[Row]) -> list[dict[str, str]]:
    """The summary as it is printed, and written in docs/training-small.md by `tables`."""
    rows = []
    for row in summary:
        end = row["accuracy"][row["steps"]]
        during = {str(step): row["accuracy"].get(step) for step in (0, *MARKS[:-1])}
        scores = {**during, "end": end}
        rows.append(
            {COLUMNS[0]: row["arm"]}
            | {step: "" if value is None else f"{value:.1f}" for step, value in scores.items()}
            | {"batch norm": f"{row['recalibrated']:.1f}" if "recalibrated" in row else ""}
            | {"rate": f"{row['rate']:g}", "weights": f"{row['weights']:,}"}
            | {f"picture / {size}": f"{row[f'picture_{size}']:.2f}" for size in (SMALL, LARGE)}
            | {"time": f"{row['time']:.2f}", "peak MB": f"{row['peak_mb']:.1f}", "memory": f"{row['memory']:.2f}"}
        )
    return rows


def _print(console: Console, rows: list[dict[str, str]], seeds: int) -> None:
    table = Table(
        title=f"Fashion-MNIST at 28x28, strided CNN: accuracy in % after so many steps, seeds: {seeds} (in full: 1)",
        title_justify="left",
        box=None,
    )
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == COLUMNS[0] else "right")
    for row in rows:
        table.add_row(*(row[name] for name in COLUMNS))
    console.print(table)
    console.print(
        f"batch norm: its statistics from {RECALIBRATING} unlabelled pictures, no step. "
        f"end: after {STEPS} steps of {BATCH}, or {FULL_STEPS} of {RECIPE.batch} (training at, in full). picture: "
        f"time of a picture in a step, divided by that of training at {SMALL} or {LARGE}. time, memory: training at "
        f"{SMALL} (where the row starts from it), rescaling and the steps together, divided by training at {LARGE}. "
        "peak MB: of the row's own steps.",
        highlight=False,
    )


def _json(results: Row) -> str:
    """JSON with one line for each row of a list."""
    parts = [f'"{k}": {_lines(v) if isinstance(v, list) else json.dumps(v)}' for k, v in results.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(rows: list[Row]) -> str:
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="DIR", help="folder with the four IDX files")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the three seeds")
    parser.add_argument("--quick", action="store_true", help="one seed, 60 steps, 1,000 test pictures")
    parser.add_argument("--tune", action="store_true", help="choose the learning rates again first")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "training.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
