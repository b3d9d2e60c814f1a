"""The measurement of `rekernel verify`: build two models by the user's code, and compare errors and accuracy.

Scope: torch and `rekernel.torch`. Not here: printing (see `tables.verify`).
"""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rekernel.errors import RekernelError
from rekernel.escape import shown
from rekernel.resampling.geometry import is_whole, new_size
from rekernel.sources.opening import local_path, open_source
from rekernel.torch import (
    ShiftSensitivity,
    equivariance_error,
    layer_errors,
    load,
    reduce_grid,
    shift_sensitivity,
    total_stride,
)
from rekernel.torch.editing.apply import PLAN
from rekernel.torch.measure.verify import plan_scales

from ..demonstration.scores import accuracy, macro_f1
from ..user_code import import_file, running

_NOISE_BATCH, _NOISE_DETAIL = 4, 4  # random inputs, and trained pixels per random value
_BATCH = 64


def compare(source: str, converted: str, factory: str, shape: tuple[int, ...], data: Path | None) -> dict[str, Any]:
    """Return everything that `verify` reports, ready for JSON."""
    original, rescaled = _build(factory), _build(factory)
    _load_original(original, source)
    load(rescaled, converted)
    size = shape[1:]
    new = tuple(new_size(n, s) for n, s in zip(size, plan_scales(rescaled, len(size)), strict=True))
    images, labels = _data(data, shape, new) if data else (_noise(shape, new), None)
    x = images[: 2 * _BATCH]
    what = f"--model {shown(factory)} on an input of {'x'.join(map(str, shape))}"
    with running(what), torch.no_grad():
        layers = layer_errors(original, rescaled, x, size)
        untouched = _untouched(original, x, size)
        shifts = _shifts(original, rescaled, x, size)
    result: dict[str, Any] = {
        "source": source,
        "converted": converted,
        "size": list(size),
        "new_size": list(new),
        "error": equivariance_error(original, rescaled, x, size=size),
        "untouched_error": untouched,
        "layers": [asdict(layer) for layer in layers],
        "pictures": data is not None,
        **shifts,
    }
    if labels is not None:
        result["scores"] = {
            "original": _scores(original, reduce_grid(images, size), labels),
            "converted": _scores(rescaled, images, labels),
        }
    return result


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the errors by layer as bars."""
    try:
        import matplotlib
    except ImportError:
        raise RekernelError("--figure needs matplotlib: pip install 'rekernel[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    layers = result["layers"]
    figure, axes = pyplot.subplots(figsize=(8, max(2.0, 0.22 * len(layers) + 1)), layout="constrained")
    axes.barh([shown(layer["name"], 60) for layer in layers], [layer["error"] for layer in layers], color="#0072b2")
    axes.axvline(result["error"], color="#d55e00", label="whole network")
    axes.invert_yaxis()
    axes.set(xlabel="relative error of the reduced output", title="Rescaled against original, layer by layer")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _load_original(model: nn.Module, source: str) -> None:
    try:
        with open_source(source):  # raises with the kind of the file if it is not safetensors
            model.load_state_dict(load_file(local_path(source)))
    except FileNotFoundError:
        raise RekernelError(f"{shown(source, 400)}: no such file") from None
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise RekernelError(f"{shown(source, 400)}: does not fit the model: {shown(reason, 300)}") from None


def _build(factory: str) -> nn.Module:
    place, _, name = factory.rpartition(":")
    if not place or not name:
        raise RekernelError(f"--model {shown(factory)}: write package.module:Class or path/to/file.py:function")
    try:
        with running(f"--model {shown(factory)}"):
            maker = getattr(_import(place), name)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise RekernelError(f"--model {shown(factory)}: {error}") from None
    if not callable(maker):
        raise RekernelError(f"--model {shown(factory)}: is neither a class nor a function")
    try:
        with suppress(ValueError):  # a builtin without a signature; the call below shows whether it works
            inspect.signature(maker).bind()
    except TypeError as error:
        raise RekernelError(
            f"--model {shown(factory)}: needs arguments ({shown(str(error))}); name a function without arguments "
            f"that builds the model at the trained size"
        ) from None
    with running(f"--model {shown(factory)}"):
        made = maker()
    if not isinstance(made, nn.Module):
        raise RekernelError(f"--model {shown(factory)}: returned {type(made).__name__}, which is not a torch module")
    return made.eval()


def _import(place: str) -> ModuleType:
    if not place.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    return import_file(Path(place))


def _untouched(model: nn.Module, x: Tensor, size: tuple[int, ...]) -> float | None:
    """Return the error of the original at the new size, or None if the original does not run at that size."""
    try:
        return equivariance_error(model, model, x, size=size)
    except (RuntimeError, ValueError):
        return None


def _shifts(original: nn.Module, rescaled: nn.Module, x: Tensor, size: tuple[int, ...]) -> dict[str, Any]:
    """What the original does when the picture moves by a trained pixel, and as supersampled strided layers see it."""
    result: dict[str, Any] = {"shift": None, "strided": supersampled_strides(rescaled), "phase_shift": None}
    each = tuple(float(n > 1) for n in size)
    with suppress(RekernelError):  # an axis of the data may have no whole number of pixels for a trained one
        result["shift"] = _as_json(shift_sensitivity(original, x, each, size=size), each)
    scales = plan_scales(rescaled, len(size))
    if not result["strided"] or not all(map(is_whole, scales)):
        return result
    strides = total_stride(original, reduce_grid(x[:1], size))
    # The phase q that is farthest from 0 is the picture moved by q T of its own pixels, here in trained ones.
    phase = tuple(t * (round(s) // 2) / s for t, s in zip(strides, scales, strict=True))
    if any(phase) and all(p < n for p, n in zip(phase, size, strict=True)):
        result["phase_shift"] = _as_json(shift_sensitivity(original, x, phase, size=size), phase)
        result["phase_shift"]["stride"] = list(strides)
    return result


def supersampled_strides(rescaled: nn.Module) -> list[str]:
    """Names of the strided convolutions and poolings that keep their stride on the finer grid."""
    plan = getattr(rescaled, PLAN, None)
    if plan is None:
        return []
    layers = [c for c in plan.changed if c.kind == "conv" and c.mode == "supersample"]
    pools = [m for m in plan.modules if m.kind in ("max-pool", "avg-pool") and m.geometry]
    return [
        change.name
        for change in (*layers, *pools)
        if any(g.stride > 1 for g in change.geometry)
        and [g.stride for g in change.geometry] == [g.stride for g in change.new_geometry]
    ]


def _as_json(found: ShiftSensitivity, pixels: tuple[float, ...]) -> dict[str, Any]:
    return {
        "pixels": list(pixels),
        "change": found.change,
        "agreement": found.agreement,
        "note": found.note,
        "shifts": [asdict(shift) for shift in found.shifts],
    }


def _noise(shape: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = [max(2, n // _NOISE_DETAIL) for n in shape[1:]]
    values = torch.randn(_NOISE_BATCH, shape[0], *coarse, generator=generator)
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(new)]
    return nn.functional.interpolate(values, size=new, mode=mode, align_corners=False)


def _data(path: Path, shape: tuple[int, ...], new: tuple[int, ...]) -> tuple[Tensor, NDArray[Any] | None]:
    """Return images as (N, C, *new) floats, integers divided by 255, and the labels or None."""
    with np.load(path) as file:
        if "images" not in file:
            raise RekernelError(
                f"{shown(str(path))}: lacks an array `images`; it has {', '.join(map(shown, file.files))}"
            )
        images, labels = file["images"], file.get("labels")
    channels = shape[0]
    if images.ndim == len(shape):
        images = images[:, None]
    elif images.shape[1] != channels and images.shape[-1] == channels:
        images = np.moveaxis(images, -1, 1)
    if (
        images.ndim != len(shape) + 1
        or images.shape[1] != channels
        or any(n < m for n, m in zip(images.shape[2:], new, strict=False))
    ):
        raise RekernelError(
            f"{shown(str(path))}: images {images.shape} do not fit {channels} channels at {new} or larger"
        )
    scale = 255 if np.issubdtype(images.dtype, np.integer) else 1
    return reduce_grid(torch.from_numpy(images.astype(np.float32) / scale), new), labels


def _scores(model: nn.Module, images: Tensor, labels: NDArray[Any]) -> dict[str, float]:
    with torch.no_grad():
        guesses = torch.cat([model(part).argmax(1) for part in torch.split(images, _BATCH)]).numpy()
    return {"accuracy": 100 * accuracy(guesses, labels), "f1": 100 * macro_f1(guesses, labels)}
