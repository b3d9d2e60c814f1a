"""The measurement of the demo: convert each classifier by every variant, load the result and test the result.

Scope: the examples and the public interface of the library. Not here: printing (see `tables.demo`) and drawing (see
`demonstration.figure`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

import rekernel as rk

from ..user_code import import_file
from .scores import accuracy, macro_f1

TRAINED, SCALES = 16, (2, 4)
STRIDES = {"conv1": 1, "conv2": 2, "conv3": 1, "conv4": 2}
PADDINGS = dict.fromkeys(STRIDES, 1)
GRID = {"fc1": (1, TRAINED, TRAINED)}


@dataclass(frozen=True)
class Variant:
    """One way to convert a classifier.

    label : name of the variant in the table
    options : options of `rekernel.convert`
    naive : whether the kernels are resized without rekernel
    untouched : whether the classifier runs unchanged
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    naive: bool = False
    untouched: bool = False


def _supersampled(label: str, **options: Any) -> Variant:
    return Variant(f"supersample, {label}", {"mode": "supersample", **options})


CNN_VARIANTS = (
    Variant("untouched", untouched=True),
    Variant("resized like a picture: corners aligned, divided by s^2", naive=True),
    _supersampled("dilate", method="dilate"),
    _supersampled("nearest, full", method="nearest"),
    _supersampled("linear, same extent, gain ratio", method="linear", taps="same-extent", gain="ratio"),
    _supersampled("linear, same extent", method="linear", taps="same-extent"),
    _supersampled("linear, full, gain none", method="linear", gain="none"),
    _supersampled("linear, full", method="linear"),
    _supersampled("cubic, same extent", method="cubic", taps="same-extent"),
    _supersampled("cubic, full", method="cubic"),
    _supersampled("lanczos3, full", method="lanczos3"),
    _supersampled("area, full", method="area"),
    _supersampled("optimal, full", method="optimal", taps="full"),
    _supersampled("optimal, same extent", method="optimal"),
    _supersampled("by role: area, then dilate"),
    Variant("absorb, linear", {"method": "linear"}),
    Variant("absorb, cubic", {"method": "cubic"}),
    Variant("absorb, optimal", {"method": "optimal"}),
    Variant("absorb, area (the default)"),
)
MLP_VARIANTS = (
    Variant("linear, gain none", {"method": "linear", "gain": "none"}),
    Variant("nearest", {"method": "nearest"}),
    Variant("linear", {"method": "linear"}),
    Variant("cubic", {"method": "cubic"}),
    Variant("lanczos3", {"method": "lanczos3"}),
    Variant("pinv-linear", {"method": "pinv-linear"}),
    Variant("optimal", {"method": "optimal"}),
    Variant("area (the default)"),
)


def examples() -> Path:
    """Return the folder of the classifiers: inside an installed package, or beside the package in a checkout."""
    here = Path(__file__).parents[1]
    return next(p for p in (here / "examples" / "glyphs", here.parents[1] / "examples" / "glyphs") if p.is_dir())


def measure(out: Path, advance: Callable[[int], None]) -> dict[str, Any]:
    """Return accuracy and macro F1 of both classifiers at the trained size, and of every variant at each scale."""
    models = import_file(examples() / "models.py")
    with np.load(examples() / "test.npz") as data:
        images, labels = data["images"], data["labels"]
    results: dict[str, Any] = {"images": len(labels), "trained": TRAINED}
    for name, variants in (("mlp", MLP_VARIANTS), ("cnn", CNN_VARIANTS)):
        state = load_file(examples() / f"{name}.safetensors")
        original = build(models, name, state, {})
        results[name] = {"trained": score(original, images, labels, 1), "rows": []}
        for variant in variants:
            row: dict[str, Any] = {"label": variant.label, "options": variant.options}
            for scale in SCALES:
                model, nbytes = converted(models, name, variant, scale, out)
                row[f"{scale}x"] = {**score(model, images, labels, scale), "bytes": nbytes}
                advance(1)
            results[name]["rows"].append(row)
    return results


def convert_example(name: str, scale: int, target: Path, **options: Any) -> rk.Plan:
    """Convert one classifier by `rekernel.convert`, with the strides, paddings and the grid that shapes do not show."""
    hints = rk.Hints(stride=STRIDES, padding=PADDINGS) if name == "cnn" else rk.Hints(linear_grid=GRID)
    source = examples() / f"{name}.safetensors"
    return rk.convert(source, target, scale=scale, hints=hints, force=True, **options).plans[""]


def converted(models: ModuleType, name: str, variant: Variant, scale: int, out: Path) -> tuple[nn.Module, int]:
    source = examples() / f"{name}.safetensors"
    if variant.untouched:
        return build(models, name, load_file(source), {}), source.stat().st_size
    if variant.naive:
        state, geometry = _like_a_picture(load_file(source), scale)
        return build(models, name, state, geometry), sum(t.nbytes for t in state.values())
    slug = "".join(c if c.isalnum() else "-" for c in variant.label).strip("-")
    target = out / f"{name}-{scale}x-{slug}.safetensors"
    convert_example(name, scale, target, **variant.options)
    # Load the result like any user: read the geometry from the file.
    recipe = rk.inspect(target).recipe
    assert recipe is not None
    geometry = {
        change.name.removesuffix(".weight"): {
            "padding": tuple(axis.padding for axis in change.new_geometry),
            "stride": tuple(axis.stride for axis in change.new_geometry),
        }
        for change in recipe.plan.changed
        if change.new_geometry
    }
    return build(models, name, load_file(target), geometry), target.stat().st_size


def _like_a_picture(state: dict[str, Tensor], scale: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Resize kernels by F.interpolate: 3x3 to 5x5 (9x9) with aligned corners, divided by s^2, with larger padding."""
    resized, geometry = dict(state), {}
    for name in ("conv1", "conv2", "conv3", "conv4"):
        size = 2 * scale + 1
        kernel = nn.functional.interpolate(
            state[f"{name}.weight"], size=(size, size), mode="bilinear", align_corners=True
        )
        resized[f"{name}.weight"] = kernel / scale**2
        geometry[name] = {"padding": size // 2}
    return resized, geometry


def build(models: ModuleType, name: str, state: dict[str, Tensor], geometry: dict[str, Any]) -> nn.Module:
    model: nn.Module
    if name == "mlp":
        model = models.GlyphMLP.from_state_dict(state)
    else:
        model = models.GlyphCNN.from_state_dict(state, geometry)
    return model


def score(model: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64], scale: int) -> dict[str, float]:
    """Return accuracy and macro F1, in percent, on the test images at `scale` times the trained size."""
    factor = images.shape[1] // (TRAINED * scale)
    n, size = len(images), TRAINED * scale
    x = images.reshape(n, size, factor, size, factor).mean(axis=(2, 4), dtype=np.float32)[:, None] / 255
    with torch.inference_mode():
        logits = [model(torch.from_numpy(part)) for part in np.array_split(x, max(1, n // 100))]
    guesses = torch.cat(logits).argmax(1).numpy()
    return {"accuracy": 100 * accuracy(guesses, labels), "f1": 100 * macro_f1(guesses, labels)}
