"""The ways to a network for 28x28 pictures, their training loop, and what a step of each costs.

Scope: the arms of the table of `training`, one loop for all of them, peak memory and time of a step. Not here: the
order of the measurement, choosing learning rates and printing (see `training`), pictures (see `fashion_data`), networks
(see `fashion_networks`).
An arm is a name and the arguments of `rekernel.torch.rescale` for the strided CNN that was trained at 14x14; None for
the others. AS_LARGE has the layers of OPTIMAL with new weights: it tells what the size of the kernels is worth. Peak
memory: what training takes above the resident memory before it, in a process of its own (Linux);
`python training_arms.py NAME` prints it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fashion_data import Pictures
from fashion_networks import cnn, load_network
from fashion_train import RECIPES
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import rekernel.torch as rkt

SMALL, LARGE = 14, 28
BATCH, STEPS = 128, 480  # of fine-tuning
RECIPE = RECIPES["CNN"]  # of training at 14 and at 28, from the start
FULL_STEPS = RECIPE.epochs * (60_000 // RECIPE.batch)
UNTOUCHED, NOTHING = "untouched", "from nothing"
AREA, READ_OPTIMAL = "absorbed, area", "absorbed, optimal"
OPTIMAL, AS_LARGE = "supersampled, optimal, dense", "from nothing, kernels as large"
IN_FULL = ", in full"  # ends the name of an arm that trains for as long as training from the start
TRAIN_SMALL, TRAIN_LARGE = "training at 14", "training at 28"

Row = dict[str, Any]

ARMS: dict[str, Row | None] = {
    AREA: {"mode": "absorb", "reading_filter": "area"},
    READ_OPTIMAL: {"mode": "absorb", "reading_filter": "optimal"},
    "supersampled, dilated": {"mode": "supersample", "method": "dilate", "reading_filter": "area", "form": "plain"},
    "supersampled, dilated, dense": {
        "mode": "supersample", "method": "dilate", "reading_filter": "area", "form": "dense",
    },
    OPTIMAL: {"mode": "supersample", "method": "optimal", "form": "dense"},
    UNTOUCHED: None,
    NOTHING: None,
    AS_LARGE: None,
    AREA + IN_FULL: None,
    READ_OPTIMAL + IN_FULL: None,
    OPTIMAL + IN_FULL: None,
    AS_LARGE + IN_FULL: None,
}  # fmt: skip
LONG = tuple(name for name in ARMS if name.endswith(IN_FULL))


class Training(NamedTuple):
    """Steps, pictures in a step, and the highest rate of a one-cycle schedule."""

    steps: int
    batch: int
    rate: float


def network(arm: str, seed: int, small: nn.Module | None = None) -> nn.Module:
    """The network that this arm starts from, for 28x28 pictures (14x14 for TRAIN_SMALL).

    Parameters
    ----------
    arm : a name in ARMS, TRAIN_SMALL or TRAIN_LARGE
    seed : int
        Of the first weights where nothing is trained yet, and of the shipped weights elsewhere.
    small : nn.Module, optional
        The network trained at 14x14, if another than the shipped one.
    """
    arm = arm.removesuffix(IN_FULL)
    if arm == AS_LARGE:
        model = network(OPTIMAL, seed, network(TRAIN_SMALL, seed).eval())
        torch.manual_seed(seed)  # the network under it is new, too, but its resampled kernels are smooth
        for kernel in (p for p in model.parameters() if p.ndim == 4):
            nn.init.kaiming_uniform_(kernel, a=5**0.5)  # as torch's own convolutions begin
        return model
    if arm in (NOTHING, TRAIN_SMALL, TRAIN_LARGE):
        torch.manual_seed(seed)
        return cnn(SMALL if arm == TRAIN_SMALL else LARGE)
    small = load_network("CNN", SMALL, seed) if small is None else small
    how = ARMS[arm]
    return small if how is None else rkt.rescale(small, LARGE / SMALL, torch.zeros(1, 1, SMALL, SMALL), **how)


def needs_small(arm: str) -> bool:
    """Whether training at 14x14 is a part of this arm's way."""
    return arm.removesuffix(IN_FULL) not in (NOTHING, AS_LARGE, TRAIN_SMALL, TRAIN_LARGE)


def fit(
    model: nn.Module,
    pictures: Pictures,
    how: Training,
    seed: int = 0,
    marks: tuple[int, ...] = (),
    mark: Callable[[int], None] = lambda step: None,
) -> float:
    """Train `model` in place, and return the processor's seconds; `mark` is called after the steps in `marks`.

    AdamW and a one-cycle rate as in `fashion_train`. The time of `mark` does not count.
    """
    seconds = 0.0
    steps = stepping(model, pictures, how, seed)
    for step in range(1, how.steps + 1):
        began = time.process_time()
        next(steps)
        seconds += time.process_time() - began
        if step in marks:
            model.eval()
            mark(step)
            model.train()
    model.eval()
    return seconds


def stepping(model: nn.Module, pictures: Pictures, how: Training, seed: int = 0) -> Iterator[None]:
    """Train by one step for each item; everything before the first step is done in the first."""
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate, total_steps=how.steps, pct_start=0.2)
    for index in _batches(len(pictures.x), how, seed):
        x = pictures.x[index].contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        cross_entropy(model(x), pictures.y[index]).backward()
        optimizer.step()
        schedule.step()
        yield


def _batches(count: int, how: Training, seed: int) -> tuple[Tensor, ...]:
    """Passes through the pictures in random order, as many as the steps need."""
    order = torch.Generator().manual_seed(seed)
    passes = -(-how.steps * how.batch // count)
    index = torch.cat([torch.randperm(count, generator=order) for _ in range(passes)])
    return index[: how.steps * how.batch].split(how.batch)


# --- cost ------------------------------------------------------------------------------------------------------


def costs(rounds: int = 16, warming: int = 4) -> dict[str, Row]:
    """Milliseconds and peak megabytes of a step, of each arm and of training at 14 and at 28.

    A round is one step of each, so that a busy machine slows all of them alike; the milliseconds are the processor's,
    the median of the rounds.
    """
    names = (TRAIN_SMALL, TRAIN_LARGE, *ARMS)
    steps = {name: _few_steps(name, rounds + warming) for name in names}
    spent: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + warming):
        for name in names:
            began = time.process_time()
            next(steps[name])
            if turn >= warming:
                spent[name].append(1000 * (time.process_time() - began))
    with ThreadPoolExecutor(2) as pool:
        peaks = dict(zip(names, pool.map(_peak_of, names), strict=True))
    return {
        name: {"batch": training(name).batch, "ms": statistics.median(spent[name]), "peak_mb": peaks[name]}
        for name in names
    }


def training(arm: str, rate: float = 1e-3) -> Training:
    """Steps and batch of an arm."""
    if arm in (TRAIN_SMALL, TRAIN_LARGE, *LONG):
        return Training(FULL_STEPS, RECIPE.batch, RECIPE.rate)
    return Training(STEPS, BATCH, rate)


def rescaling_seconds(arm: str) -> float:
    """The processor's seconds of `rescale`; the second of two calls, since the first one loads what it needs."""
    for _ in range(2):
        small = load_network("CNN", SMALL, 0)
        began = time.process_time()
        network(arm, 0, small)
    return time.process_time() - began


def _few_steps(name: str, steps: int) -> Iterator[None]:
    how = training(name)._replace(steps=steps)
    side = SMALL if name == TRAIN_SMALL else LARGE
    pictures = Pictures(torch.rand(how.batch, 1, side, side), torch.randint(10, (how.batch,)))
    return stepping(network(name, 0), pictures, how)


def _peak_of(name: str, tries: int = 3) -> float:
    """The median of some processes: where the C library puts small tensors changes it by some tenths of a megabyte."""
    # Large tensors go back to the system when freed: the peak is what was in use, not what malloc had kept.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, name]
    found = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(tries)]
    return statistics.median(float(done.stdout) for done in found)


def _probe(name: str) -> float:
    """Megabytes that four steps take above what was there before them."""
    torch.set_num_threads(1)
    tiny = Pictures(torch.rand(8, 1, LARGE, LARGE), torch.zeros(8, dtype=torch.long))
    fit(network(TRAIN_LARGE, 0), tiny, Training(2, 8, 1e-3))  # libraries load and compile their kernels
    steps = _few_steps(name, 4)  # its pictures are there at its first step
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's way to start VmHWM anew
    before = _status("VmRSS")
    for _ in steps:
        pass
    return round(_status("VmHWM") - before, 2)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    print(_probe(sys.argv[1]))
