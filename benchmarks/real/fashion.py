"""Rescale classifiers of Fashion-MNIST, and test them on pictures of the new size.

    python benchmarks/real/fashion.py                  # some ten minutes on two cores
    python benchmarks/real/fashion.py --quick          # one seed, 1,000 pictures
    python benchmarks/real/fashion.py --train          # train the networks again first: about an hour more

Scope: the rows of the tables, their scores, and printing. Not here: pictures (see `fashion_data`), networks (see
`fashion_networks`) and training (see `fashion_train`). For each change of size, five networks and three seeds: accuracy
and macro F1 on the 10,000 test pictures of the new size. A row of ROWS is a name and the keyword arguments of
`rekernel.torch.rescale`; a row that rekernel refuses says why in its first line. Writes results/fashion.json.
"""

from __future__ import annotations

import argparse
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
from fashion_data import FOLDER, Pictures, accuracy_and_f1, load, resized
from fashion_networks import NAMES, NETWORKS, SEEDS, load_network
from fashion_train import predicted, recorded, train_all
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import interpolate

import rekernel as rk
import rekernel.torch as rkt

HERE = Path(__file__).resolve().parent
CHANGES = ((14, 28), (7, 28), (14, 21), (28, 42), (28, 14))
TRAINED, ANEW, UNTOUCHED = "trained size", "trained at the new size", "untouched"
RESIZED, DEFAULT = "picture reduced by area, enlarged bilinearly", "default"
RESIZED_CUBIC = "picture resized bicubically"
FILTERS = ("area", "linear", "cubic", "lanczos3", "optimal")
METHODS = {  # arguments of `rescale` for the layers inside; `form="auto"` is the same function, and faster
    "dilate": {"method": "dilate", "form": "auto"},
    "optimal": {"method": "optimal"},
    "optimal, full support": {"method": "optimal", "taps": "full"},
    "optimal-filter": {"method": "optimal-filter", "form": "auto"},
    "linear": {"method": "linear", "form": "auto"},
    "cubic": {"method": "cubic", "form": "auto"},
    "lanczos3": {"method": "lanczos3", "form": "auto"},
}

Row = dict[str, Any]

ROWS: dict[str, Row] = {  # arguments of `rescale`
    DEFAULT: {},
    **{f"absorb, {name}": {"mode": "absorb", "reading_filter": name} for name in FILTERS},
    "supersample": {"mode": "supersample"},
    **{f"supersample, {name}": {"mode": "supersample", **how} for name, how in METHODS.items()},
    **{
        f"supersample, {name} behind area": {"mode": "supersample", "reading_filter": "area", **how}
        for name, how in METHODS.items()
    },
}
OTHERS = (TRAINED, ANEW, UNTOUCHED, RESIZED, RESIZED_CUBIC)
SLOW = tuple(name for name in ROWS if name.startswith("supersample"))
FURTHER = ("supersample", "supersample, optimal", "supersample, cubic")


class Job(NamedTuple):
    """One network at one change of size."""

    old: int
    new: int
    network: str
    seed: int
    folder: Path
    pictures: int


def main() -> None:
    """Measure, print, write."""
    options = _options()
    if options.train:
        train_all(options.data)
    began = time.perf_counter()
    pictures = 1000 if options.quick else 10_000
    seeds = SEEDS[: 1 if options.quick else options.seeds]
    jobs = [
        Job(*change, name, seed, options.data, pictures) for change in CHANGES for seed in seeds for name in NETWORKS
    ]
    load("test", 28, options.data)  # says what is missing before any process starts
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        runs = [run for part in pool.map(measured, jobs) for run in part]
    runs += [_trained_anew(job) for job in jobs if _trained_anew(job)]
    summary = summarised(runs)
    setting = {
        "versions": {"rekernel": rk.__version__, "torch": torch.__version__}, "processor": platform.processor(),
        "workers": workers, "minutes": round((time.perf_counter() - began) / 60, 1), "pictures": pictures,
        "seeds": list(seeds), "rows": ROWS,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(_json({"setting": setting, "worst": worst(summary), "summary": summary, "runs": runs}))
    console = Console(width=150)
    for change in CHANGES:
        _print(console, change, [row for row in summary if (row["old"], row["new"]) == change], seeds)
    _print_worst(console, worst(summary))
    console.print(f"{setting['minutes']} minutes; written to {options.out}", highlight=False)


# --- measuring -------------------------------------------------------------------------------------------------


def measured(job: Job) -> list[Row]:
    """Every row of one network."""
    torch.set_num_threads(1)
    model = load_network(job.network, job.old, job.seed)
    old, new = (_pictures(size, job.folder, job.pictures) for size in (job.old, job.new))
    bicubic = interpolate(new.x, size=(job.old,) * 2, mode="bicubic", antialias=True)
    runs = [
        _scored(job, TRAINED, model, old.x, old.y),
        _scored(job, UNTOUCHED, model, new.x, new.y),
        _scored(job, RESIZED, model, resized(new.x, job.old), new.y),
        _scored(job, RESIZED_CUBIC, model, bicubic, new.y),
    ]
    for name, arguments in ROWS.items():
        if name in SLOW and not _has_time(job, name):
            continue
        try:
            changed = rkt.rescale(model, job.new / job.old, old.x[:1], **arguments)
        except rk.RekernelError as error:
            runs.append(_row(job, name, refused=str(error).splitlines()[0]))
        else:
            runs.append(_scored(job, name, changed, new.x, new.y))
    return runs


def _has_time(job: Job, name: str) -> bool:
    """Whether a row of SLOW is measured.

    At the first change of size every one is, the ViT's from seed 0 alone; elsewhere those of FURTHER are, from seed 0
    alone, and none of the ViT. Supersampled, the ViT attends to 4 times as many tokens at 14 to 28.
    """
    if (job.old, job.new) == CHANGES[0]:
        return job.network != "ViT" or job.seed == 0
    return job.network != "ViT" and job.seed == 0 and name in FURTHER


@functools.cache
def _pictures(size: int, folder: Path, count: int) -> Pictures:
    test = load("test", size, folder)
    return Pictures(test.x[:count], test.y[:count])


def _scored(job: Job, name: str, model: nn.Module, x: Tensor, y: Tensor) -> Row:
    try:
        answers = predicted(model, x)
    except (RuntimeError, ValueError) as error:
        if name != UNTOUCHED:  # what rescale gives back must run
            raise
        return _row(job, name, refused=str(error).splitlines()[0])
    accuracy, f1 = accuracy_and_f1(answers, y)
    return _row(job, name, accuracy=round(accuracy, 2), f1=round(f1, 2))


def _row(job: Job, name: str, **found: Any) -> Row:
    return {"old": job.old, "new": job.new, "network": job.network, "row": name, "seed": job.seed, **found}


def _trained_anew(job: Job) -> Row:
    """The recorded score of the same network and seed trained at the new size; empty if there is none."""
    for row in recorded():
        if (row["network"], row["size"], row["seed"]) == (job.network, job.new, job.seed):
            return _row(job, ANEW, accuracy=row["accuracy"], f1=row["f1"])
    return {}


# --- output ----------------------------------------------------------------------------------------------------


def summarised(runs: list[Row]) -> list[Row]:
    """Mean over the seeds, by change of size, network and row; what was refused keeps its reason."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for run in runs:
        groups.setdefault((run["old"], run["new"], run["network"], run["row"]), []).append(run)
    order = (*OTHERS, *ROWS)
    rows = []
    for (old, new, network, name), group in groups.items():
        row: Row = {"old": old, "new": new, "network": network, "row": name, "seeds": len(group)}
        if refused := next((run["refused"] for run in group if "refused" in run), None):
            rows.append({**row, "refused": refused})
            continue
        for score in ("accuracy", "f1"):
            row[score] = round(statistics.fmean(run[score] for run in group), 2)
        rows.append(row)
    return sorted(rows, key=lambda r: (CHANGES.index((r["old"], r["new"])), order.index(r["row"])))


def worst(summary: list[Row]) -> list[Row]:
    """For each change of size, how far the default falls at most below the trained size and the resized pictures."""
    rows = []
    for old, new in CHANGES:
        held = {(r["row"], r["network"]): r for r in summary if (r["old"], r["new"]) == (old, new)}
        for reference in (TRAINED, RESIZED, RESIZED_CUBIC):
            row: Row = {"old": old, "new": new, "below": reference}
            for score in ("accuracy", "f1"):
                drops = {
                    n: held[reference, n][score] - held[DEFAULT, n].get(score, 0)
                    for n in NETWORKS
                    if (DEFAULT, n) in held
                }
                network = max(drops, key=lambda n: drops[n])
                row |= {score: round(drops[network], 2), f"{score}_of": network}
            rows.append(row)
    return rows


def _print(console: Console, change: tuple[int, int], summary: list[Row], seeds: tuple[int, ...]) -> None:
    old, new = change
    table = Table(
        title=f"Fashion-MNIST, trained at {old}x{old}, tested at {new}x{new}: accuracy / macro F1 in %, mean of "
        f"{len(seeds)} seeds (* fewer)",
        title_justify="left",
        box=None,
    )
    table.add_column("row")
    for name in NETWORKS:
        table.add_column(NAMES[name], justify="right")
    held = {(r["row"], r["network"]): r for r in summary}
    for name in (*OTHERS, *ROWS):
        table.add_row(name, *(_cell(held.get((name, network)), len(seeds)) for network in NETWORKS))
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for row in summary:
        if "refused" in row and row["row"] != UNTOUCHED:
            reasons.setdefault(row["refused"], []).append(row["network"])
    for reason, networks in reasons.items():
        where = ", ".join(dict.fromkeys(networks))
        console.print(f"refused {len(networks)} times ({where}): {reason}", highlight=False, markup=False)
    console.print()


def _cell(row: Row | None, seeds: int) -> str:
    if row is None:
        return ""
    if "refused" in row:
        return "-" if row["row"] == UNTOUCHED else "refused"
    return f"{row['accuracy']:.1f} / {row['f1']:.1f}{'*' if row['seeds'] < seeds else ' '}"


def _print_worst(console: Console, rows: list[Row]) -> None:
    table = Table(title="How far the default falls at most, in points", title_justify="left", box=None)
    for name in ("change", "below", "accuracy", "macro F1"):
        table.add_column(name)
    for row in rows:
        scores = (f"{row[score]:+.2f} ({row[f'{score}_of']})" for score in ("accuracy", "f1"))
        table.add_row(f"{row['old']} to {row['new']}", row["below"], *scores)
    console.print(table)


def _json(results: Row) -> str:
    """JSON with one line for each run."""
    parts = [
        f'"{key}": {_lines(value) if isinstance(value, list) else json.dumps(value)}' for key, value in results.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(rows: list[Row]) -> str:
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="DIR", help="folder with the four IDX files")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the three seeds")
    parser.add_argument("--quick", action="store_true", help="one seed and 1,000 pictures")
    parser.add_argument("--train", action="store_true", help="train the networks again first")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fashion.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
