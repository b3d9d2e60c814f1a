"""Measure guidance, rescaled kernels and a cascade on pictures that have a truth: clothes at twice the trained size.

    python benchmarks/diffusion/fashion_twice.py [--samples 300] [--only guidance]

Samples examples/fashion_diffusion (trained at 16x16) at 32x32, each row for the same classes and from the same noise,
and judges the pictures as `fashion_judge` says. Writes results/fashion_twice.json after every row. The cascade is made
by hand here: samples of the trained size, enlarged bicubically, with the scheduler's noise of the first step that is
kept, denoised from there.
"""

import argparse
import functools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "accuracy"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "diffusion_common"))

import diffusers
import torch
from diffusion_rows import SMOOTH
from diffusion_rows import Row as Sampled
from fashion_judge import FOLDER, held_back, judge
from rich.console import Console
from rich.table import Table
from samples import load
from torch import Tensor
from torch.nn.functional import interpolate

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[1] / "examples" / "fashion_diffusion"
RESULTS = HERE / "results" / "fashion_twice.json"
TRAINED, SCALE, BATCH, SEED = 16, 2, 50, 0
GUIDED: dict[str, Any] = {**SMOOTH, "theta": 1.5}  # theta 1.5, eta 1, smooth U


@dataclass(frozen=True)
class Row:
    """`sampled` says what is attached at 32x32; `strength` starts there from an enlarged sample, else from noise."""

    sampled: Sampled
    strength: float | None = None
    steps: int = 20

    @property
    def name(self) -> str:
        return self.sampled.name


def _cascade(name: str, strength: float, steps: int = 20, cfg: float = 1.0, **how: Any) -> Row:
    return Row(Sampled(name, cfg=cfg, **how), strength, steps)


ROWS: list[Row] = [
    Row(Sampled("true pictures", true=True)),
    Row(Sampled("small samples, enlarged bicubically", enlarged=True)),
    Row(Sampled("untouched")),
    Row(Sampled("dilated inner", {"method": "dilate"})),
    Row(Sampled("guidance (1.5, 1)", None, GUIDED)),
    Row(Sampled("guidance (1.5, 1) + dilated inner", {"method": "dilate"}, GUIDED)),
    Row(Sampled("guidance (1.5, 1) + dilated inner, until 0.5", {"method": "dilate", "until": 0.5}, GUIDED)),
    _cascade("cascade 0.6 without guidance", 0.6),
    *(_cascade(f"cascade {s:g}, guidance (1.5, 1)", s, guidance=GUIDED) for s in (0.4, 0.6, 0.8)),
    _cascade("cascade 0.6, guidance (1.9, 1)", 0.6, guidance={**GUIDED, "theta": 1.9}),
    _cascade("cascade 0.6, guidance (1.5, 0.7)", 0.6, guidance={**GUIDED, "eta": 0.7}),
    _cascade("cascade 0.6 in 40 steps, guidance (1.5, 1)", 0.6, steps=40, guidance=GUIDED),
    Row(Sampled("cfg 2: small samples, enlarged bicubically", enlarged=True, cfg=2.0)),
    Row(Sampled("cfg 2: guidance (1.5, 1)", None, GUIDED, cfg=2.0)),
    _cascade("cfg 2: cascade 0.6, guidance (1.5, 1)", 0.6, cfg=2.0, guidance=GUIDED),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="DIR", help="folder with the four IDX files")
    parser.add_argument("--samples", type=int, default=300, help="pictures a row")
    parser.add_argument("--only", default="", help="only rows in whose name this pattern is found")
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = held.get("rows", {})
    pipe = load(MODEL)
    for row in ROWS:
        if not re.search(options.only, row.name):
            continue
        images, labels, passes = pictures(pipe, row, options.samples, options.data)
        figures = {key: [m.value, m.low, m.high] for key, m in judge(images, labels, options.data).items()}
        rows[row.name] = {"samples": options.samples, "passes": round(passes, 2), **figures}
        print(row.name, {k: round(v[0], 3) for k, v in figures.items()}, file=sys.stderr, flush=True)
        order = {row.name: place for place, row in enumerate(ROWS)}
        rows = dict(sorted(rows.items(), key=lambda item: order.get(item[0], len(order))))
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
        setting = {"seed": SEED, "autocast": "bfloat16", **versions}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")
    Console(width=160).print(table(rows))


def pictures(pipe: Any, row: Row, count: int, data: Path) -> tuple[Tensor, Tensor, float]:
    """(count, 1, 32, 32) in [0, 1], the classes asked for, in turn, and the passes for each picture."""
    if row.sampled.true:
        return *held_back(count, data), 0.0
    labels, steps, cfg = torch.arange(count) % 10, row.steps, row.sampled.cfg
    first, before = None, 0.0
    if row.sampled.enlarged or row.strength:
        first, before = enlarged_samples(pipe, count, steps, cfg)
    if row.sampled.enlarged:
        return first.clamp(0, 1), labels, before
    noise, made = _noise(count, TRAINED * SCALE), []
    with row.sampled.attached(pipe, SCALE), counted(pipe, count) as passes:
        for part in torch.arange(count).split(BATCH):
            if first is None:
                made.append(_from_noise(pipe, labels[part], noise[part], steps, cfg))
            else:
                made.append(_from_picture(pipe, labels[part], noise[part], first[part], row))
    return torch.cat(made), labels, before + passes[0]


@functools.cache
def enlarged_samples(pipe: Any, count: int, steps: int, cfg: float) -> tuple[Tensor, float]:
    """Samples of the trained size, enlarged bicubically, which leaves [0, 1] a little; and the passes for each."""
    labels, noise = torch.arange(count) % 10, _noise(count, TRAINED)
    parts = torch.arange(count).split(BATCH)
    with counted(pipe, count) as passes:
        small = torch.cat([_from_noise(pipe, labels[part], noise[part], steps, cfg) for part in parts])
    return interpolate(small, scale_factor=SCALE, mode="bicubic"), passes[0]


def _noise(count: int, size: int) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(SEED + size))


# The network runs in bfloat16, as it was trained: it is 2.5 times faster here. Sampling itself stays in float32.


@torch.autocast("cpu", torch.bfloat16)
def _from_noise(pipe: Any, labels: Tensor, noise: Tensor, steps: int, cfg: float) -> Tensor:
    height, width = noise.shape[-2:]
    options = {"guidance_scale": cfg, "num_inference_steps": steps, "output_type": "pt"}
    return pipe(labels, height, width, latents=noise, **options).images


@torch.no_grad()
@torch.autocast("cpu", torch.bfloat16)
def _from_picture(pipe: Any, labels: Tensor, noise: Tensor, picture: Tensor, row: Row) -> Tensor:
    pipe.scheduler.set_timesteps(row.steps)
    kept = pipe.scheduler.timesteps[-kept_steps(row) :]
    x = pipe.scheduler.add_noise(2 * picture - 1, noise, kept[:1])
    for t in kept:
        predicted = pipe._predict(x, t, labels, row.sampled.cfg).float()
        x = pipe.scheduler.step(predicted, t, x, use_clipped_model_output=True).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


def kept_steps(row: Row) -> int:
    """Steps that the strength leaves."""
    return round(row.steps * (row.strength or 0))


@contextmanager
def counted(pipe: Any, count: int) -> Iterator[list[float]]:
    """One number: passes for each of `count` pictures, in units of one at 32x32, counted where the network reads x."""
    total = [0.0]

    def add(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        batch, _, height, width = inputs[0].shape
        total[0] += batch * height * width / (count * (TRAINED * SCALE) ** 2)

    handle = pipe.unet.conv_in.register_forward_pre_hook(add)
    try:
        yield total
    finally:
        handle.remove()


def table(rows: dict[str, Any]) -> Table:
    """The rows for a person: values with their 95 % intervals."""
    made = Table(title=f"examples/fashion_diffusion at {TRAINED * SCALE}x{TRAINED * SCALE}")
    made.add_column("row")
    columns = ("frechet", "kid", "precision", "recall", "recognised", "sharpness")
    for name in ("passes", *columns):
        made.add_column(name, justify="right")
    for name, row in rows.items():
        cells = ["{:.3g} ({:.3g}-{:.3g})".format(*row[column]) for column in columns]
        made.add_row(name, f"{row['passes']:g}", *cells)
    return made


if __name__ == "__main__":
    main()
