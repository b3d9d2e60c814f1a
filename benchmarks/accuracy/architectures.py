"""Where plain dilation beats interpolated kernels, and why: real architectures, one cause at a time.

    python benchmarks/accuracy/architectures.py            # about three minutes on one core
    python benchmarks/accuracy/architectures.py --only ResNet VGG --seeds 1 --out /tmp/architectures.json

Every number is an equivariance error, ||D larger(x) - original(D x)|| / ||original(D x)||, D the area average; means
over seeds of the weights. Inputs at the new size: smooth (waves of at most 0.06 cycles a pixel), their sign (edges),
and with white noise of NOISE. Six tables: *whole* networks by method and input; the same with *one respect changed* (no
borders, slower waves, no norms, ...); the error each kind of *layer* adds by itself; *depth*; the *flatten*; and the
trained classifier of examples/glyphs beside the same network with random weights, whose features are compared before
the average over the image, and its accuracy. "bands meet" is the shipped least-squares design with its pass and stop
band ending and starting at half a cycle, so that no frequency is free.
Deterministic. Writes results/architectures.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from causes import (
    INPUTS,
    MEETING,
    METHODS,
    NOISE,
    bands,
    noisy,
    own_errors,
    peak,
    relative,
    rescaled,
    stack,
    waves,
    with_dense_kernels,
    with_flatten_by,
    without_activations,
    without_borders,
    without_norms,
)  # fmt: skip
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn
from zoo import ZOO, Architecture, before_pooling, built, mobilenet, revived

import rekernel as rk
import rekernel.torch as rkt

HERE = Path(__file__).resolve().parent
GLYPHS = HERE.parents[1] / "examples" / "glyphs"

FEW = ("dilate", "optimal", "optimal, bands meet", "optimal factored")
TAKEN_APART = {
    **{name: ZOO[name] for name in ("UNet2DModel", "AutoencoderKL, encoder", "AutoencoderKL, decoder")},
    "ResNet, before pooling": before_pooling(ZOO["ResNet"]),
    "ConvNeXt, before pooling": before_pooling(ZOO["ConvNeXt"]),
    "MobileNetV2, before pooling": before_pooling(ZOO["MobileNetV2"]._replace(build=lambda: mobilenet(False))),
    "VGG, flatten": ZOO["VGG, flatten"],
}
AT_FOUR = ("ResNet", "ConvNeXt", "VGG, flatten", "AutoencoderKL, decoder")
DEPTHS = (1, 2, 4, 8, 16)
KINDS = ("stride 1", "depthwise", "strided", "upsampled", "pooling", "activation", "norm")

Row = dict[str, Any]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="transformers|diffusers")
    console = Console(width=170)
    chosen = {name: net for name, net in ZOO.items() if any(word in name for word in options.only)}
    results: Row = {"setting": _setting(options)}

    def table(name: str, title: str, rows: list[Row]) -> None:
        results[name] = rows
        _print(console, title, rows)

    table("whole", "Whole networks, 2x, by input", [r for n, a in chosen.items() for r in whole(n, a, 2, options)])
    table("four", "Whole networks, 4x", [r for n in AT_FOUR if n in chosen for r in whole(n, chosen[n], 4, options)])
    apart = {name: net for name, net in TAKEN_APART.items() if any(word in name for word in options.only)}
    table("causes", "One respect changed, 2x", [r for n, a in apart.items() for r in causes(n, a, options.seeds)])
    table("layers", "What a layer adds by itself, 2x, smooth input: root mean square over layers of a kind",
          [r for n, a in apart.items() for r in layers(n, a)])  # fmt: skip
    table("depth", "Convolutions of stride 1 without borders or norms, by depth, 2x", depth())
    table("flatten", "A flatten's weights by method, the convolutions dilated, 2x, smooth input", flatten())
    table("glyphs", f"The classifier of examples/glyphs, {options.images} test images", glyphs(options.images))
    table("peaks", "Largest gain of any tap at any frequency, per axis, 3 taps", peaks())
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


def whole(name: str, net: Architecture, scale: int, options: argparse.Namespace) -> list[Row]:
    """Every method on every input; None where the untouched network refuses the new size or gives other tokens."""
    scales, large = _sizes(net, scale)
    found: dict[str, dict[str, list[float | None]]] = {kind: {m: [] for m in METHODS} for kind in INPUTS}
    few = net.grows or len(net.size) == 1  # an image averages over its pixels; a signal's area average is a big matrix
    for seed in range(1 if few else options.seeds):
        model, example = built(net, seed), torch.zeros(1, net.channels, *net.size)
        x = waves(large, net.channels, seed=seed)
        for method in METHODS:
            larger = rescaled(model, scales, example, method, net.modes)
            for kind, made in INPUTS.items():
                found[kind][method].append(_error(model, larger, made(x), net.size))
    return [{"network": name, "scale": scale, "input": k, **{m: _mean(v) for m, v in by.items()}}
            for k, by in found.items()]  # fmt: skip


def causes(name: str, net: Architecture, seeds: int) -> list[Row]:
    """The network as it is, and changed in one respect; means over seeds of the weights."""
    scales, large = _sizes(net, 2)
    example = torch.zeros(1, net.channels, *net.size)
    found: dict[str, dict[str, list[float | None]]] = {}
    for seed in range(seeds):
        for changed, (model, x) in _changes(net, large, seed).items():
            errors = found.setdefault(changed, {m: [] for m in FEW})
            for method in FEW:
                larger = rescaled(model, scales, example, method, net.modes)
                errors[method].append(_error(model, larger, x, net.size))
    return [
        {"network": name, "changed": changed, **{m: _mean(v) for m, v in errors.items()}}
        for changed, errors in found.items()
    ]


def _changes(net: Architecture, large: tuple[int, ...], seed: int) -> dict[str, tuple[nn.Module, Tensor]]:
    smooth, slow, slower = (waves(large, net.channels, band=band, seed=seed) for band in (0.06, 0.03, 0.015))
    as_it_is = built(net, seed)
    changes = {
        "as it is": (as_it_is, smooth),
        "no borders": (without_borders(built(net, seed)), smooth),
        "waves twice as long": (as_it_is, slow),
        "no borders, waves twice as long": (without_borders(built(net, seed)), slow),
        "waves four times as long": (as_it_is, slower),
        "noise": (as_it_is, noisy(smooth)),
        "no norms": (without_norms(built(net, seed)), smooth),
        "no activations": (without_activations(built(net, seed)), smooth),
    }
    if any(m.groups > 1 for m in as_it_is.modules() if isinstance(m, nn.Conv2d)):
        changes["depthwise made dense"] = (with_dense_kernels(built(net, seed)), smooth)
    return changes


def layers(name: str, net: Architecture) -> list[Row]:
    """Root mean square of the layers' own errors, by kind."""
    scales, large = _sizes(net, 2)
    model, x = built(net), waves(large, net.channels)
    example, found, kept = torch.zeros(1, net.channels, *net.size), {}, {}
    with torch.no_grad():
        before = model(rkt.reduce_grid(x, net.size)).std()
        for method in FEW:
            larger = rescaled(model, scales, example, method, net.modes)
            found[method] = own_errors(model, larger, x, 2)
            kept[method] = float(larger(x).std() / before)
    last = {"network": name, "kind": "std of the output, new to old", "layers": None, **kept, "input beyond .3": None}
    return [*_by_kind(name, found), last]


def _by_kind(name: str, found: dict[str, list[Row]]) -> list[Row]:
    rows = []
    for kind in KINDS:
        of_kind = {m: [r for r in layers if r["kind"] == kind] for m, layers in found.items()}
        if not of_kind["dilate"]:
            continue
        row: Row = {"network": name, "kind": kind, "layers": len(of_kind["dilate"])}
        row |= {m: math.sqrt(statistics.fmean(r["error"] ** 2 for r in layers)) for m, layers in of_kind.items()}
        shares = [r["beyond"] for r in of_kind["optimal"] if "beyond" in r]
        rows.append({**row, "input beyond .3": statistics.fmean(shares) if shares else None})
    return rows


def depth() -> list[Row]:
    """Error against the number of layers."""
    rows = []
    methods = ("dilate", "optimal", "optimal, bands meet", "optimal full", "optimal factored", "cubic full")
    for activation in (nn.Identity, nn.ReLU):
        for kind in ("smooth", "noise"):
            x = INPUTS[kind](waves((64, 64), 3, batch=2))
            for count in DEPTHS:
                model = stack(count, activation)
                errors = {
                    m: _error(model, rescaled(model, 2, torch.zeros(1, 3, 32, 32), m), x, (32, 32)) for m in methods
                }
                rows.append({"activation": activation.__name__, "input": kind, "depth": count, **errors})
    return rows


def flatten() -> list[Row]:
    """What the resampling of the weights behind a flatten contributes."""
    rows = []
    for name in ("VGG, flatten", "MLP"):
        net = ZOO[name]
        model, (_, large) = built(net), _sizes(net, 2)
        larger = rescaled(model, 2, torch.zeros(1, net.channels, *net.size), "dilate")
        x = waves(large, net.channels, batch=4)
        methods = ("nearest", "linear", "cubic", "optimal")
        errors = {m: _error(model, with_flatten_by(model, larger, m), x, net.size) for m in methods}
        rows.append({"network": name, **errors})
    return rows


def glyphs(count: int) -> list[Row]:
    """The trained classifier, then the same network with random weights: feature errors, accuracies, own errors."""
    sys.path.insert(0, str(GLYPHS))
    from models import GlyphCNN

    class Features(nn.Module):
        def __init__(self, inner: GlyphCNN) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.features(x)

    trained = Features(GlyphCNN.from_state_dict(load_file(GLYPHS / "cnn.safetensors")))
    random = Features(GlyphCNN())
    revived(random)
    with np.load(GLYPHS / "test.npz") as data:
        images = torch.from_numpy(data["images"][:count].astype(np.float32) / 255)[:, None]
        labels = torch.from_numpy(data["labels"][:count])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 4  # white; 1 is left at 16x16
    rows: list[Row] = []
    for name, model in (("trained", trained), ("random", random)):
        for scale in (2, 4) if name == "trained" else (2,):
            for method in METHODS if name == "trained" else FEW:
                row: Row = {"weights": name, "scale": scale, "method": method}
                # Interpolation at full support is the same function in either form, and quick in this one.
                form = "factored" if method in ("cubic full", "linear full", "nearest full") else None
                larger = rescaled(model, scale, torch.zeros(1, 1, 16, 16), method, form=form)
                for kind, level in (("clean", 0.0), ("noise .05", 0.05)):
                    x = images + level * noise
                    with torch.no_grad():
                        wanted = model(rkt.reduce_grid(x, (16, 16)))
                        features = larger(rkt.reduce_grid(x, (16 * scale,) * 2))
                    row[kind] = relative(rkt.reduce_grid(features, tuple(wanted.shape[2:])), wanted)
                    if name == "trained":
                        logits = trained.inner.fc(features.mean((2, 3)))
                        row[f"accuracy {kind}"] = float((logits.argmax(1) == labels).double().mean())
                rows.append(row)
        x = rkt.reduce_grid(images[:50], (32, 32))
        found = {m: own_errors(model, rescaled(model, 2, torch.zeros(1, 1, 16, 16), m), x, 2) for m in FEW}
        rows += [{"scale": 2, **r} for r in _by_kind(f"{name} weights", found)]
    return rows


def peaks() -> list[Row]:
    """Gain above one at some frequency compounds with depth."""
    rows = []
    for scale in (2, 3, 4):
        row: Row = {"scale": scale, "optimal": peak(3, scale), "optimal full": peak(3, scale, "full")}
        with bands(*MEETING):
            row["optimal, bands meet"] = peak(3, scale)
        rows.append(row)
    return rows


def _sizes(net: Architecture, scale: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(Scale per axis, input size at it); axes that `net.scale` leaves at 1 stay."""
    kept = net.scale if isinstance(net.scale, tuple) else (net.scale,) * len(net.size)
    scales = tuple(1 if s == 1 else scale for s in kept)
    return scales, tuple(n * s for n, s in zip(net.size, scales, strict=True))


def _error(model: nn.Module, larger: nn.Module, x: Tensor, size: tuple[int, ...]) -> float | None:
    try:
        return rkt.equivariance_error(model, larger, x, size=size)
    except (RuntimeError, ValueError):
        if larger is model:
            return None
        raise


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _print(console: Console, title: str, rows: list[Row]) -> None:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    for columns, group in groups.items():
        table = Table(title=title, title_justify="left", box=None)
        for name in columns:
            table.add_column(name, justify="left" if isinstance(group[0][name], str) else "right")
        for row in group:
            table.add_row(*(_cell(row[name]) for name in columns))
        console.print(table)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _setting(options: argparse.Namespace) -> Row:
    return {
        "versions": {"rekernel": rk.__version__, "torch": torch.__version__},
        "seeds": options.seeds,
        "images": options.images,
        "noise": NOISE,
        "methods": METHODS,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="networks whose name has one of these")
    parser.add_argument(
        "--seeds", type=int, default=3, help="draws of the weights; of whole networks that give an image, one"
    )
    parser.add_argument("--images", type=int, default=100, help="test images of the classifier (at most 600)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "architectures.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
