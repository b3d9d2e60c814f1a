"""Train the networks of the Fashion-MNIST tables.

    python benchmarks/real/fashion_train.py                          # all of them, about an hour on one core
    python benchmarks/real/fashion_train.py --sizes 14 --networks CNN --seeds 0

Scope: training and its record. Not here: the networks (see `fashion_networks`) and the tables (see `fashion`, whose
option --train calls this). AdamW with weight decay .01 and a one-cycle rate, no augmentation; a seed
sets the first weights and the order of the pictures. The last weights are kept: nothing is chosen on the test pictures.
Weights at 14, 7 and 28 go to `weights/fashion/`; of 21 and 42 the scores alone are kept, of seed
0 alone. The scores, of the float16 weights as shipped, go to `weights/fashion/trained.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fashion_data import FOLDER, Pictures, accuracy_and_f1, load
from fashion_networks import NETWORKS, SEEDS, SHIPPED, WEIGHTS, load_network, save_network
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

SIZES = (14, 7, 28, 21, 42)  # in this order: the first is what most tables need
ONE_SEED = (21, 42)
RECORD = WEIGHTS / "trained.json"

Row = dict[str, Any]


class Recipe(NamedTuple):
    """Passes through the training pictures, the highest learning rate, and pictures in a batch."""

    epochs: int
    rate: float
    batch: int = 256


RECIPES = {
    "MLP": Recipe(12, 3e-3), "CNN": Recipe(6, 1e-2), "VGG": Recipe(6, 4e-3), "ResNet": Recipe(5, 1e-2),
    "ViT": Recipe(4, 6e-3, batch=128),
}  # fmt: skip


def main() -> None:
    """Train what the options name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, metavar="DIR", help="folder with the four IDX files")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    train_all(options.data, options.sizes, options.networks, options.seeds)


def train_all(folder: Path, sizes: Any = SIZES, networks: Any = tuple(NETWORKS), seeds: Any = SEEDS) -> None:
    """Train every network at every size from every seed; write weights and scores after each."""
    torch.set_num_threads(1)
    for size in sizes:
        train, test = load("train", size, folder), load("test", size, folder)
        for name in networks:
            for seed in seeds[:1] if size in ONE_SEED else seeds:
                began = time.perf_counter()
                model = trained(name, train, seed)
                if size in SHIPPED:
                    save_network(model, name, size, seed)
                    model = load_network(name, size, seed)
                accuracy, f1 = accuracy_and_f1(predicted(model, test.x), test.y)
                row = {"network": name, "size": size, "seed": seed, "accuracy": round(accuracy, 2), "f1": round(f1, 2)}
                row |= {"epochs": RECIPES[name].epochs, "seconds": round(time.perf_counter() - began, 1)}
                print(json.dumps(row), flush=True)
                _record(row)


def trained(name: str, pictures: Pictures, seed: int) -> nn.Module:
    """A network trained on these pictures, in evaluation mode."""
    torch.manual_seed(seed)
    epochs, rate, size = RECIPES[name]
    model = NETWORKS[name](pictures.x.shape[-1]).to(memory_format=torch.channels_last)
    x, y = pictures.x.contiguous(memory_format=torch.channels_last), pictures.y
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    steps = len(x) // size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps, pct_start=0.2)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for batch in order[: steps * size].split(size):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predicted(model: nn.Module, x: Tensor, batch: int = 500) -> Tensor:
    """The class with the largest logit, for every picture."""
    return torch.cat([model(part).argmax(1) for part in x.split(batch)])


def recorded() -> list[Row]:
    """The scores of every training, as shipped."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def _record(row: Row) -> None:
    key = ("network", "size", "seed")
    rows = [r for r in recorded() if any(r[k] != row[k] for k in key)] + [row]
    rows.sort(key=lambda r: (list(NETWORKS).index(r["network"]), SIZES.index(r["size"]), r["seed"]))
    RECORD.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
