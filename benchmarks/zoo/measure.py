"""Rescale one architecture by 2 and find out, by running it, whether the result is right.

Scope: one architecture. Not here: which there are (see `zoo_*.py`), and all of them (see `run`). The verdict comes from
the outputs alone; of rekernel's plan only the notes are read, to tell a failure that was announced from a silent one.
"""

from __future__ import annotations

import time
import traceback
from typing import Any

import torch
from architecture import Architecture, called
from probes import Growth, distance, growth, matched, moved_back, reduced, rough, smooth
from torch import Tensor, nn
from weights import close, gates, revive, settle

import rekernel as rk
import rekernel.torch as rkt

MODES = {"default": {}, "supersample": {"mode": "supersample"}}
EXACT = 1e-4
"""A relative error below this is rounding."""
FAILED = 0.25
"""A relative error above this must have been announced."""
SENSITIVE = 3.0
"""A network whose answer changes by so many times the change of its input is tamed, if that can be done."""
FAINT = 0.01
"""Answers to two images that differ by less do not show an error."""

Row = dict[str, Any]


def measure(net: Architecture, *, borderless: bool = False) -> Row:
    """Both modes of one architecture: `{'parameters', 'input', ..., 'default': {...}, 'supersample': {...}}`.

    With `borderless` its convolutions pad by what lies at the other side, which no border effect can hide behind.
    """
    torch.manual_seed(0)
    network = revive(net.build().eval(), net.keep)
    if borderless:
        close(network)
    sensitivity = _settled(net, network)
    new_size = [round(n * s) for n, s in zip(net.size, net.scales, strict=True)]
    probes = {"smooth": smooth(2, net.shape[0], new_size, 1), "rough": rough(2, net.shape[0], new_size, 2)}
    expected = {name: _answer(net, network, reduced(image, net.scales)) for name, image in probes.items()}
    row: Row = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "input": [n for n in net.shape if n],
        "sensitivity": _short(sensitivity),
        "contrast": _short(_contrast(net, network, reduced(probes["smooth"], net.scales), expected["smooth"])),
        "moved": 0.0,
    }
    grown: list[Growth] = []
    for mode, options in MODES.items():
        start = time.perf_counter()
        found, row[mode] = _rescaled(net, network, options, probes, expected)
        if found:
            grown = growth(found["smooth"].shape, expected["smooth"].shape, net.scales, net.grid) or grown
            row[mode] |= _compared(net, found, expected)
        row[mode]["seconds"] = round(time.perf_counter() - start, 1)
    row["moved"] = _short(_moved(net, network, reduced(probes["smooth"], net.scales), expected["smooth"], grown))
    return row


def _short(number: float) -> float:
    return float(f"{number:.3g}")


def _answer(net: Architecture, network: nn.Module, image: Tensor) -> Tensor:
    return net.output(called(network, net.arguments(image))).detach().clone()


def _settled(net: Architecture, network: nn.Module) -> float:
    """Settle batch norm, and open gates half until the network is not chaotic; its relative change by a relative change.

    Gates of random weights multiply what they read, layer after layer: a rounding error becomes another answer.
    """
    batches = [net.arguments(smooth(4, net.shape[0], net.size, seed)) for seed in (11, 12, 13)]
    image, noise = smooth(2, net.shape[0], net.size, 1), 1e-3 * rough(2, net.shape[0], net.size, 4)
    for attempt in range(5):
        settle(network, batches)
        sensitivity = distance(_answer(net, network, image + noise), _answer(net, network, image)) / 1e-3
        if sensitivity < SENSITIVE or attempt == 4:
            break
        for weights in gates(network, net.arguments(image)):
            weights.mul_(0.3)
    return sensitivity


def _contrast(net: Architecture, network: nn.Module, image: Tensor, answer: Tensor) -> float:
    """How different the answers to different images are."""
    return distance(_answer(net, network, image.flip(0)), answer)


def _moved(net: Architecture, network: nn.Module, image: Tensor, answer: Tensor, grown: list[Growth]) -> float:
    """How far the network is from its own answer when the picture moves by an eighth of its size, and is moved back."""
    axes = tuple(range(image.ndim - len(net.size), image.ndim))
    by = tuple(n // 8 if s > 1 else 0 for n, s in zip(net.size, net.scales, strict=True))
    return distance(moved_back(_answer(net, network, image.roll(by, axes)), grown, 1 / 8), answer)


def _rescaled(
    net: Architecture, network: nn.Module, options: Row, probes: dict[str, Tensor], expected: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Row]:
    """The answers of the rescaled network, and what is said of it; no answers where it failed."""
    example = net.arguments(smooth(1, net.shape[0], net.size, 3))
    try:
        larger = rkt.rescale(network, net.scale, example, **options).eval()
    except rk.RekernelError as refused:
        return {}, {"outcome": "refused", "message": str(refused)}
    except Exception as crash:  # anything that is not rekernel's own word
        return {}, _crash("rescale", crash)
    plan = larger.rekernel_plan
    told = {"notes": list(plan.warnings), "checked": plan.checked}
    try:
        found = {name: _answer(net, larger, image) for name, image in probes.items()}
    except Exception as crash:  # the network that was given does not run
        return {}, _crash("run", crash) | told
    if any(type(tensor) is not Tensor for tensor in found.values()):
        return {}, {"outcome": "crash", "where": "run", "message": "answers with a tensor without values"} | told
    if distance(_answer(net, network, reduced(probes["smooth"], net.scales)), expected["smooth"]) > EXACT:
        return {}, {"outcome": "crash", "where": "rescale", "message": "the original network changed"} | told
    return found, told


def _compared(net: Architecture, found: dict[str, Tensor], expected: dict[str, Tensor]) -> Row:
    """The outcome, from the answers alone."""
    if found["rough"].shape == expected["rough"].shape:
        error = distance(found["rough"], expected["rough"])
        if error < EXACT:
            return {"outcome": "exact", "error": float(f"{error:.2g}")}
    shapes = found["smooth"].shape, expected["smooth"].shape
    grown = growth(*shapes, net.scales, net.grid)
    if grown is None:
        return {"outcome": "approximate", "error": None, "message": "an output of {} for {}".format(*map(tuple, shapes))}
    error = distance(matched(found["smooth"], grown), expected["smooth"])
    return {"outcome": "approximate", "error": _short(error), "grown": bool(grown)}


def _crash(where: str, error: Exception) -> Row:
    frames = traceback.extract_tb(error.__traceback__)
    last = [f"{f.filename.split('site-packages/')[-1].split('/src/')[-1]}:{f.lineno}" for f in frames[-3:]]
    first_line = str(error).strip().split("\n")[0][:300]
    return {"outcome": "crash", "where": where, "message": f"{type(error).__name__}: {first_line}", "frames": last}


def silent(row: Row, mode: str) -> bool:
    """Whether a row has a failure which nothing announced.

    A network that supersamples answers as the original does to pictures that moved by less than a pixel of its
    coarsest grid. So an error no larger than what moving the picture does is that of the original.
    """
    verdict = row[mode]
    if verdict["outcome"] != "approximate" or verdict["notes"]:
        return False
    if verdict["error"] is None:
        return True
    supersamples = mode != "default" or verdict["grown"]
    return bool(verdict["error"] > (max(FAILED, min(row["moved"], 1.0)) if supersamples else FAILED))
