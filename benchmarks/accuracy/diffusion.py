"""Measure what upsample guidance and rescaled kernels do to a trained diffusion model above its trained size.

    python benchmarks/accuracy/diffusion.py [--scale 2] [--samples 256] [--jobs 2] [--decisive]

Samples examples/glyph_diffusion (trained at 16x16) at 2 and 4 times its size in every way of `diffusion_rows`, each row
from the same noise and for the same digits, 20 DDIM steps, and measures it as `diffusion_metrics` says. Writes
results/diffusion.json after every row, and the first pictures of each row to results/diffusion-SCALE.npz, from which
`diffusion_figures.py` draws.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process has one thread, and there are as many processes as --jobs
import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusion_metrics import Reference
from diffusion_rows import DECISIVE, ROWS, Row
from glyph_features import true_glyphs
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[1] / "examples" / "glyph_diffusion"
RESULTS = HERE / "results" / "diffusion.json"
TRAINED, STEPS, BATCH, SEED, SHOWN = 16, 20, 32, 0, 16
TRUE_SEED = 57  # of true glyphs that neither the judges nor their references have seen
Images = NDArray[np.float32]


def load() -> Any:
    """The shipped pipeline, quiet."""
    diffusers.utils.logging.set_verbosity_error()
    pipe = DiffusionPipeline.from_pretrained(MODEL, custom_pipeline=str(MODEL), trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def asked(count: int) -> NDArray[np.int64]:
    """The digits asked for: all ten in turn."""
    return np.arange(count) % 10


def sample(pipe: Any, row: Row, scale: int, count: int) -> Images:
    """`count` pictures (count, S, S) in [0, 1], the same noise in every row of a scale."""
    size = TRAINED * (1 if row.enlarged else scale)
    noise = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(SEED))
    labels = torch.from_numpy(asked(count))
    made = []
    # The network in bfloat16, as it was trained: it is 2.5 times faster here, and sampling itself stays in float32.
    with row.attached(pipe, scale), torch.autocast("cpu", torch.bfloat16):
        for first in range(0, count, BATCH):
            part = slice(first, first + BATCH)
            made.append(
                pipe(
                    labels[part], height=size, width=size, num_inference_steps=STEPS, output_type="pt",
                    latents=noise[part], guidance_scale=row.cfg,
                ).images
            )  # fmt: skip
    images = torch.cat(made)
    if row.enlarged:
        images = torch.nn.functional.interpolate(images, scale_factor=scale, mode="bicubic").clamp(0, 1)
    return images[:, 0].numpy()


def measured(images: Images, labels: NDArray[np.int64], scale: int) -> dict[str, Any]:
    """The metrics at the pictures' own size, and the distance of their halves where they are four times as large.

    At eight times there is a picture alone.
    """
    if scale > 4:
        return {}
    row = {k: [v.value, v.low, v.high] for k, v in Reference.of_size(TRAINED * scale).measure(images, labels).items()}
    if scale == 4:
        n, s, _ = images.shape
        halves = images.reshape(n, s // 2, 2, s // 2, 2).mean(axis=(2, 4))
        half = Reference.of_size(TRAINED * 2).measure(halves, labels)["frechet"]
        row["frechet_halved"] = [half.value, half.low, half.high]
    return row


def run(scale: int, row: Row, count: int) -> tuple[str, dict[str, Any], Images]:
    """One row: in a process of its own, with a pipeline of its own."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    labels = asked(count)
    if row.true:
        images, labels = true_glyphs(count, TRUE_SEED, TRAINED * scale)
    else:
        images = sample(load(), row, scale, count)
    seconds = time.perf_counter() - begin
    numbers = measured(images, labels, scale)
    return row.name, {"group": row.group, **numbers, "seconds": round(seconds, 1)}, images[:SHOWN]


def trained_size(count: int, cfg: float) -> dict[str, Any]:
    """What the model itself reaches at its trained size: the ceiling of the share with one object."""
    images = sample(load(), Row("trained size", cfg=cfg), 1, count)
    reference = Reference.of_size(TRAINED)
    return {k: [v.value, v.low, v.high] for k, v in reference.measure(images, asked(count)).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, choices=sorted(ROWS), action="append", help="2 and 4 by default")
    parser.add_argument("--samples", type=int, default=256, help="pictures a row; 200 at least for a claim")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="rows whose name contains this; the others keep their results")
    parser.add_argument("--decisive", action="store_true", help="at 2x, the rows of the targets alone, kept apart")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.decisive:
        rows = [row for row in ROWS[2] if row.name in DECISIVE and options.only in row.name]
        results = sweep("2 decisive", 2, rows, options.samples, options.jobs, results)
        Console(width=160).print(table(2, results["2 decisive"]["rows"]))
        return
    for scale in options.scale or (2, 4):
        count = options.samples if scale < 8 else SHOWN
        rows = [row for row in ROWS[scale] if options.only in row.name]
        results = sweep(str(scale), scale, rows, count, options.jobs, results)
        if scale < 8:
            Console(width=160).print(table(scale, results[str(scale)]["rows"]))


def sweep(key: str, scale: int, rows: list[Row], count: int, jobs: int, results: dict[str, Any]) -> dict[str, Any]:
    """Rows of a scale, several at a time; written below `key` as they come."""
    if scale < 8:
        Reference.of_size(TRAINED * scale)  # trained once, here, and not in every process
        Reference.of_size(TRAINED * 2)
    for name, cfg in (("trained size", 1.0), ("trained size, cfg 2", 2.0)):
        if name not in results:
            results[name] = trained_size(count, cfg)
    here = results.setdefault(key, {"rows": {}})
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    here["setting"] = {"samples": count, "steps": STEPS, "seed": SEED, "autocast": "bfloat16", **versions}
    pictures = HERE / "results" / f"diffusion-{scale}x.npz"
    shown = dict(np.load(pictures)) if pictures.exists() else {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed(pool.submit(run, scale, row, count) for row in rows):
            name, numbers, images = done.result()
            here["rows"][name] = numbers
            shown[name] = np.rint(images * 255).astype(np.uint8)
            print(f"{scale}x  {name}: {numbers['seconds']:g} s", file=sys.stderr)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            np.savez_compressed(pictures, **shown)
    order = {row.name: i for i, row in enumerate(ROWS[scale])}
    here["rows"] = dict(sorted(here["rows"].items(), key=lambda item: order.get(item[0], len(order))))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return results


def table(scale: int, rows: dict[str, Any]) -> Table:
    """The rows for a person: values with their 95 % intervals, and the distance over the untouched model's."""
    made = Table(title=f"examples/glyph_diffusion at {TRAINED * scale}x{TRAINED * scale}")
    columns = ["frechet", *(["frechet_halved"] if scale == 4 else []), "one_object", "sure", "sharpness"]
    made.add_column("row")
    for name in ("of untouched", *columns):
        made.add_column(name.replace("_", " "), justify="right")
    untouched = rows.get("untouched", {}).get("frechet", [float("nan")])[0]
    for name, row in rows.items():
        cells = ["{:.3g} ({:.3g}-{:.3g})".format(*row[c]) if c in row else "" for c in columns]
        made.add_row(name, f"{row['frechet'][0] / untouched:.2f}", *cells)
    return made


if __name__ == "__main__":
    main()
