"""What stands behind the verdicts of `rekernel verify`: grades beside what was really lost.

    python benchmarks/real/verdicts.py                  # a few minutes on one core

Scope: classifiers of Fashion-MNIST from 14x14 to 28x28, whose loss of accuracy is measured with labels, and two trained
diffusion networks from 16x16 to 32x32, whose samples benchmarks/accuracy/diffusion.py judges. Not here: the grades (see
`rekernel.torch.verify` and `rekernel.diffusion.verify_denoiser`). Writes results/verdicts.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from fashion_data import FOLDER, load
from fashion_networks import NETWORKS, load_network
from rich.console import Console
from rich.table import Table
from shifted import MOVED, moved
from torch import nn

import rekernel as rk
import rekernel.torch as rkt
from rekernel.diffusion import verify_denoiser
from rekernel.diffusion.measure.example_call import made_up_conditions

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
OLD, NEW = 14, 28
WAYS: dict[str, dict[str, Any]] = {
    "absorb, area": {},
    "absorb, linear": {"reading_filter": "linear"},
    "absorb, cubic": {"reading_filter": "cubic"},
    "absorb, lanczos3": {"reading_filter": "lanczos3"},
    "absorb, optimal": {"reading_filter": "optimal"},
    "supersample, optimal": {"mode": "supersample", "method": "optimal"},
    "supersample, dilate": {"mode": "supersample", "method": "dilate"},
    "supersample, dilate behind area": {"mode": "supersample", "method": "dilate", "reading_filter": "area"},
    "supersample, cubic": {"mode": "supersample", "method": "cubic"},
}
DIFFUSION = ("glyph_diffusion", "fashion_diffusion")
METHODS = ("dilate", "linear", "optimal")
FINEST = ("conv_in*", "conv_out*", "down_blocks.0.resnets*", "up_blocks.2*")  # what the preset inner leaves
Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    torch.set_num_threads(1)
    began = time.process_time()
    test = load("test", NEW, options.data)
    x, y = test.x[: options.pictures], test.y[: options.pictures]
    networks = [(f"{name}, seed 0", load_network(name, OLD, 0)) for name in NETWORKS]
    networks += [(f"{name}, moved in training", moved(name)) for name in MOVED]
    denoised = [row for name in DIFFUSION for row in diffused(name)]
    rows = [row for name, model in networks for row in classified(name, model, x, y)]
    setting = {
        "versions": {"rekernel": rk.__version__, "torch": torch.__version__}, "pictures": options.pictures,
        "machine": platform.machine(), "cpu_minutes": round((time.process_time() - began) / 60, 1),
    }  # fmt: skip
    found = {"setting": setting, "grades": grades(rows), "rows": rows, "diffusion": denoised}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    _print(found)


def classified(name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[Row]:
    """Every way of rescaling one classifier: its grade, and the points of accuracy that it lost."""
    rows = []
    for way, how in WAYS.items():
        try:
            larger = rkt.rescale(model, NEW // OLD, torch.zeros(1, 1, OLD, OLD), **how)
        except rk.RekernelError:  # a network without convolutions cannot supersample
            continue
        found = rkt.verify(model, larger, x, labels=y)
        print(name, way, found.verdict.grade, flush=True)
        before, after = (found.scores[which].accuracy for which in ("original", "converted"))
        untouched = None if found.untouched is None else found.untouched.kept
        rows.append({
            "network": name, "way": way, "grade": found.verdict.grade, "error": found.converted.error,
            "kept": found.converted.kept, "by_hand_kept": found.by_hand.kept, "by_hand_error": found.by_hand.error,
            "untouched_kept": untouched, "lost": before - after,
        })  # fmt: skip
    return rows


def diffused(name: str) -> list[Row]:
    """Every way of rescaling a denoiser, with the Frechet distance of its samples where that was measured."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    folder = EXAMPLES / name
    model = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
    judged = json.loads((HERE.parent / "accuracy" / "results" / "diffusion.json").read_text())["2"]["rows"]
    example = {"sample": torch.zeros(1, 1, 16, 16), "timestep": torch.tensor(10), "class_labels": torch.zeros(1).long()}
    rows = []
    for method in METHODS:
        for layers in ("inner", "all"):
            left = {"exclude": list(FINEST)} if layers == "inner" else {}
            larger = rkt.rescale(model, 2, example, method=method, mode="supersample", **left)
            conditions = made_up_conditions(model, 8, (32, 32))
            found = verify_denoiser(model, larger, (16, 16), scheduler=scheduler, conditions=conditions, count=8)
            print(name, method, layers, found.grade, flush=True)
            label = f"{'dilated' if method == 'dilate' else method} {layers}"
            frechet = judged[label]["frechet"][0] if name == DIFFUSION[0] and label in judged else None
            rows.append({
                "network": name, "method": method, "layers": layers, "grade": found.grade, "frechet": frechet,
                "untouched_frechet": judged["untouched"]["frechet"][0] if frechet is not None else None,
                "times": found.as_dict()["times"],
            })  # fmt: skip
    return rows


def grades(rows: list[Row]) -> dict[str, Row]:
    """For each grade the number of rows, and the least, median and largest loss of accuracy."""
    found = {}
    for grade in ("same", "close", "changed", "no better"):
        lost = sorted(row["lost"] for row in rows if row["grade"] == grade)
        if lost:
            found[grade] = {"rows": len(lost), "least": lost[0], "median": lost[len(lost) // 2], "most": lost[-1]}
    return found


def _print(found: Row) -> None:
    table = Table(title="Points of accuracy lost, by grade", box=None)
    for head in ("grade", "rows", "least", "median", "most"):
        table.add_column(head, justify="left" if head == "grade" else "right")
    for grade, row in found["grades"].items():
        table.add_row(grade, str(row["rows"]), *(f"{row[key]:.1f}" for key in ("least", "median", "most")))
    console = Console(width=120)
    console.print(table)
    table = Table(title="Denoisers", box=None)
    for head in ("network", "method", "layers", "grade", "Frechet", "untouched", "largest above"):
        table.add_column(head)
    for row in found["diffusion"]:
        numbers = ["" if row[key] is None else f"{row[key]:.0f}" for key in ("frechet", "untouched_frechet")]
        above = max(at["above"] for at in row["times"])
        table.add_row(row["network"], row["method"], row["layers"], row["grade"], *numbers, f"{above:.2f}")
    console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, help="the folder with the four IDX files")
    parser.add_argument("--pictures", type=int, default=400, help="test pictures")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "verdicts.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
