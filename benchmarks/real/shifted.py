"""Does the answer to a moved picture foretell what supersampling loses, and what do new statistics repair?

    python benchmarks/real/shifted.py                  # a few minutes on one core
    python benchmarks/real/shifted.py --train          # train the networks of weights/shifted again first

Scope: classifiers of Fashion-MNIST from 14x14 to 28x28. Not here: pictures (see `fashion_data`) and networks (see
`fashion_networks`). Beside the shipped networks there is one CNN and one ResNet whose training pictures were moved by
up to 3 pixels at random. For each network:

- label-free, of the original alone: the share of answers that stay when the picture moves by one pixel, and by half the
  total stride (what a supersampled strided layer sees at 2x);
- four ways to supersample it (`optimal` and dilation, each with and without an area filter on the image): the share of
  the original's answers that stay, and the accuracy, before and after `rkt.recalibrate` on 1,500 training pictures.

Writes results/shifted.json, with Spearman's rank correlation of the first two numbers with the share that stays.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from fashion_data import FOLDER, Pictures, load
from fashion_networks import NETWORKS, SEEDS, load_network
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel as rk
import rekernel.torch as rkt

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights" / "shifted"
OLD, NEW = 14, 28
SHIPPED = ("CNN", "VGG", "ResNet")
MOVED = ("CNN", "ResNet")  # trained again with pictures moved at random
REACH, EPOCHS, BATCH = 3, 4, 128
IMAGES = 1500  # for new statistics
WAYS = {
    f"{method}{', behind area' if behind else ''}": {"method": method, **({"reading_filter": "area"} if behind else {})}
    for method in ("optimal", "dilate")
    for behind in (False, True)
}

Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.train:
        for name in MOVED:
            train(name, load("train", OLD, options.data))
    began = time.perf_counter()
    test = load("test", NEW, options.data)
    test = Pictures(test.x[: options.pictures], test.y[: options.pictures])
    unlabelled = load("train", NEW, options.data).x[:IMAGES]
    rows = [
        measured(f"{name}, seed {seed}", load_network(name, OLD, seed), test, unlabelled)
        for name in SHIPPED
        for seed in SEEDS
    ]
    rows += [measured(f"{name}, moved in training", moved(name), test, unlabelled) for name in MOVED]
    setting = {
        "versions": {"rekernel": rk.__version__, "torch": torch.__version__}, "processor": platform.processor(),
        "minutes": round((time.perf_counter() - began) / 60, 1), "pictures": options.pictures, "images": IMAGES,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"setting": setting, "rank": ranks(rows), "rows": rows}, indent=1) + "\n")
    _print(rows)


def measured(name: str, model: nn.Module, test: Pictures, unlabelled: Tensor) -> Row:
    """What the original answers to moved pictures, and what it loses when it is supersampled in four ways."""
    small = F.avg_pool2d(test.x, 2)
    before = answers(model, small)
    stride = rkt.total_stride(model, small[:1])[0]
    one, half = (rkt.shift_sensitivity(model, small, pixels) for pixels in (1, stride // 2))
    row: Row = {
        "network": name, "stride": stride, "accuracy": _share(before, test.y),
        "one": {"agreement": one.agreement, "change": one.change},
        "half": {"agreement": half.agreement, "change": half.change}, "supersampled": {},
    }  # fmt: skip
    for way, how in WAYS.items():
        larger = rkt.rescale(model, NEW // OLD, small[:1], mode="supersample", **how)
        found = {way: answers(larger, test.x)}
        if any(isinstance(m, nn.BatchNorm2d) for m in larger.modules()):
            with rkt.recalibrate(larger, unlabelled.split(250)):
                found[f"{way}, recalibrated"] = answers(larger, test.x)
        for name_of_way, answer in found.items():
            row["supersampled"][name_of_way] = {
                "agreement": _share(answer, before), "accuracy": _share(answer, test.y)
            }  # fmt: skip
    return row


def ranks(rows: list[Row]) -> Row:
    """Spearman's rank correlation of both shifts with the answers that stay, by the best and the worst of four ways."""
    kept = [_plain(row) for row in rows]
    return {
        f"{shift}, {name}": float(spearmanr([row[shift]["agreement"] for row in rows], [pick(k) for k in kept])[0])
        for shift in ("one", "half")
        for name, pick in (("best", max), ("worst", min))
    }


def _plain(row: Row) -> list[float]:
    return [found["agreement"] for how, found in row["supersampled"].items() if "recalibrated" not in how]


@torch.no_grad()
def answers(model: nn.Module, x: Tensor) -> Tensor:
    """The classes that a network gives."""
    return torch.cat([model.eval()(part).argmax(1) for part in x.split(250)])


def train(name: str, pictures: Pictures) -> None:
    """Train a network on pictures moved at random, and write its weights."""
    torch.manual_seed(0)
    order = torch.Generator().manual_seed(0)
    model, (x, y) = NETWORKS[name](OLD), pictures
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, EPOCHS * (len(x) // BATCH))
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x), generator=order)[: len(x) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(_at_random(x[index], order)), y[index]).backward()
            optimizer.step()
            schedule.step()
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    save_file(state, WEIGHTS / f"{name.lower()}-{OLD}.safetensors")


def _at_random(x: Tensor, draw: torch.Generator) -> Tensor:
    """Each picture moved by up to REACH pixels along both axes, its edge repeated."""
    size = x.shape[-1]
    padded = F.pad(x, (REACH,) * 4, mode="replicate")
    starts = torch.randint(0, 2 * REACH + 1, (2, len(x), 1), generator=draw)
    rows, columns = starts + torch.arange(size)
    return padded[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def moved(name: str) -> nn.Module:
    """The shipped network whose training pictures were moved."""
    model = NETWORKS[name](OLD)
    state = {k: v.float() for k, v in load_file(WEIGHTS / f"{name.lower()}-{OLD}.safetensors").items()}
    model.load_state_dict(state, strict=False)  # batch norm's counters of batches are not stored
    return model.eval()


def _share(answer: Tensor, other: Tensor) -> float:
    return float((answer == other).double().mean())


def _print(rows: list[Row]) -> None:
    table = Table(title="Share of answers that stay, in %; in brackets with new statistics of batch norm", box=None)
    for head in ("network", "accuracy at 14", "moved by 1", "by half its stride", *WAYS):
        table.add_column(head, justify="left" if head == "network" else "right")
    for row in rows:
        found = row["supersampled"]
        cells = []
        for way in WAYS:
            new = found.get(f"{way}, recalibrated")
            cells.append(f"{_percent(found[way])}{f' ({_percent(new)})' if new else ''}")
        table.add_row(
            row["network"], f"{100 * row['accuracy']:.1f}", _percent(row["one"]), _percent(row["half"]), *cells
        )
    console = Console(width=150)
    console.print(table)
    drops = [
        100 * (row["supersampled"][f"{way}, recalibrated"]["accuracy"] - row["supersampled"][way]["accuracy"])
        for row in rows
        for way in WAYS
        if f"{way}, recalibrated" in row["supersampled"]
    ]
    console.print(f"new statistics change the accuracy by {min(drops):+.1f} to {max(drops):+.1f}, "
                  f"{statistics.median(drops):+.1f} in the median")  # fmt: skip
    console.print(f"rank correlation: {ranks(rows)}")


def _percent(found: Row) -> str:
    return f"{100 * found['agreement']:.1f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, help="the folder with the four IDX files")
    parser.add_argument("--train", action="store_true", help="train the networks with moved pictures again first")
    parser.add_argument("--pictures", type=int, default=4000, help="test pictures")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "shifted.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
