"""Measure every way of sampling above the trained size, on three trained models, by quality and by passes.

    python benchmarks/diffusion/cascades.py [--model glyphs] [--size 32] [--samples 200] [--jobs 2] [--quick]

A row asks for the same classes, ten in turn, and starts from the same noise. The passes are counted in a hook on the
network, below guidance: one pass on all pixels of the picture counts as 1, one at half the size as 1/4. Writes
results/cascades.json after every row, and the first pictures of each row to results/cascades-MODEL-SIZE.npz.
`--decisive` runs the headline rows alone on `--samples` pictures, kept apart.
"""

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process has one thread, and there are as many processes as --jobs
import diffusers
import numpy as np
import torch
from all_phases import AllPhases
from cascade_rows import ROWS, Row
from cascade_tables import table
from numpy.typing import NDArray
from torch import Tensor
from trained_models import MODELS, TRAINED, TrainedModel

import rekernel.diffusion as rkd
from rekernel.diffusion.cascade.passes import Passes

HERE = Path(__file__).resolve().parent
RESULTS, QUICK = HERE / "results" / "cascades.json", HERE.parents[1] / "out" / "cascades.json"
BATCH, SEED, SHOWN = 50, 0, 10


def sampled(model: TrainedModel, row: Row, size: int, count: int) -> tuple[Tensor, float]:
    """Pictures (count, S, S) in [0, 1], and the passes for each, in units of a pass on S x S pixels."""
    pipe, made, passes = model.load(), [], 0.0
    options = {
        "num_inference_steps": row.steps or model.steps,
        "guidance_scale": row.cfg or model.cfg,
        "output_type": "pt",
    }
    batches = (torch.arange(count) % 10).split(BATCH)
    # The network in bfloat16, as it was trained: it is 2.5 times faster here, and sampling itself stays in float32.
    with ExitStack() as stack:
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        call = _call(pipe, row, size, stack)
        for number, labels in enumerate(batches):
            generator = torch.Generator().manual_seed(SEED + number)
            images, counted = call(labels, generator=generator, **options)
            made.append(images)
            passes += counted / len(batches)
    images = torch.cat(made).float()
    if row.enlarged:
        images = torch.nn.functional.interpolate(images, (size, size), mode="bicubic").clamp(0, 1)
    return images[:, 0], passes


def _call(pipe: Any, row: Row, size: int, stack: ExitStack) -> Callable[..., tuple[Tensor, float]]:
    """The function that samples a batch in the way of a row, and counts the passes."""
    if row.all_phases:
        return _at_all_phases(pipe, row, size, stack)
    if row.strengths:
        sizes = [TRAINED * 2**i for i in range(len(row.strengths) + 1)]
        guidance = False if row.guidance is None else row.guidance
        above = {"guidance": guidance, "kernels": row.kernels, "positions": row.positions}
        cascade = rkd.GuidedCascade(pipe, sizes, strength=row.strengths, **above)
        return lambda labels, **options: (cascade(labels, **options).images, cascade.passes)
    passes = Passes()
    stack.enter_context(passes.counted(getattr(pipe, "transformer", None) or pipe.unet))
    if row.guidance is not None:
        stack.enter_context(rkd.UpsampleGuidance(size / TRAINED, **row.guidance).attach(pipe))
    if row.kernels is not None:
        stack.enter_context(rkd.SupersampledKernels(size / TRAINED, **row.kernels).attach(pipe))
    if row.positions is not None:
        stack.enter_context(rkd.RescaledPositions(size / TRAINED, **row.positions).attach(pipe))
    side = TRAINED if row.enlarged else size

    def plain(labels: Tensor, **options: Any) -> tuple[Tensor, float]:
        passes.sizes.clear()
        images = pipe(labels, height=side, width=side, **options).images
        return images, passes.full * (side / size) ** 2

    return plain


def _at_all_phases(pipe: Any, row: Row, size: int, stack: ExitStack) -> Callable[..., tuple[Tensor, float]]:
    guided = AllPhases(pipe, TRAINED, **(row.guidance or {}))
    stack.enter_context(guided.attached())  # below the count of passes, which must not count these twice
    plain = _call(pipe, replace(row, guidance=None, all_phases=False), size, stack)

    def call(labels: Tensor, **options: Any) -> tuple[Tensor, float]:
        guided.low_passes = 0
        images, passes = plain(labels, **options)
        return images, passes + guided.low_passes * (TRAINED / size) ** 2

    return call


def run(key: tuple[str, int], row: Row, count: int) -> tuple[str, dict[str, Any], NDArray[np.uint8]]:
    """One row: in a process of its own, with a pipeline of its own."""
    torch.set_num_threads(1)
    name, size = key
    model, begin = MODELS[name], time.perf_counter()
    if row.true:
        (images, labels), passes = model.true(count, size), 0.0
    else:
        images, passes = sampled(model, row, size, count)
        labels = torch.arange(count) % 10
    seconds = time.perf_counter() - begin
    figures = {"group": row.group, "passes": round(passes, 3), **model.judge(images, labels)}
    shown = np.rint(images[:SHOWN].numpy() * 255).astype(np.uint8)
    return row.name, {**figures, "seconds": round(seconds, 1)}, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append", help="all by default")
    parser.add_argument("--size", type=int, choices=(32, 64), action="append", help="all by default")
    parser.add_argument("--samples", type=int, help="pictures a row: 200, and 80 with --quick")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="rows whose name contains this; the others keep their results")
    parser.add_argument("--missing", action="store_true", help="rows that have no result yet")
    parser.add_argument("--quick", action="store_true", help="the headline rows alone, into out/cascades.json")
    parser.add_argument("--decisive", action="store_true", help="the headline rows, kept apart from the others")
    given = parser.parse_args()
    path = QUICK if given.quick else RESULTS
    held = json.loads(path.read_text()) if path.exists() else {}
    for key, rows in ROWS.items():
        if (given.model and key[0] not in given.model) or (given.size and key[1] not in given.size):
            continue
        label = f"{key[0]} {key[1]}{' decisive' if given.decisive else ''}"
        wanted = [
            row
            for row in rows
            if given.only in row.name
            and (row.headline or not (given.quick or given.decisive))
            and not (given.missing and row.name in held.get(label, {}).get("rows", {}))
        ]
        sweep(key, label, wanted, given.samples or (80 if given.quick else 200), given.jobs, path)
    made = json.loads(path.read_text())
    for label, found in made.items():
        print(f"\n{label}, {found['setting']['samples']} samples a row\n\n{table(found['rows'])}")


def sweep(key: tuple[str, int], label: str, rows: list[Row], count: int, jobs: int, path: Path) -> None:
    """Run rows of one model and size, several at a time; write each as it comes."""
    MODELS[key[0]].judge(*MODELS[key[0]].true(10, key[1]))  # judges are trained once, here, and not in every process
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    model, order = MODELS[key[0]], {row.name: place for place, row in enumerate(ROWS[key])}
    setting = {"samples": count, "steps": model.steps, "cfg": model.cfg, "seed": SEED, "autocast": "bfloat16"}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, key, row, count) for row in rows]):
            name, figures, images = done.result()
            text = {k: round(v[0], 3) for k, v in figures.items() if isinstance(v, list)}
            print(f"{label}  {name}: {figures['passes']:g} passes, {text}, {figures['seconds']:g} s", file=sys.stderr)
            with results(path) as held:
                here = held.setdefault(label, {"rows": {}})
                here["setting"] = {**setting, **versions}
                here["rows"][name] = figures
                here["rows"] = dict(sorted(here["rows"].items(), key=lambda item: order.get(item[0], len(order))))
                pictures = path.with_name(f"cascades-{key[0]}-{key[1]}.npz")
                shown = dict(np.load(pictures)) if pictures.exists() else {}
                np.savez_compressed(pictures, **{**shown, name: images})


@contextmanager
def results(path: Path) -> Iterator[dict[str, Any]]:
    """A result file, read and then written; two runs of this script take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = json.loads(path.read_text()) if path.exists() else {}
        yield held
        order = [f"{name} {size}{more}" for name, size in ROWS for more in ("", " decisive")]
        held = dict(sorted(held.items(), key=lambda item: order.index(item[0])))
        path.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
