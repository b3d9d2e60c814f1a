"""The measurement of `rekernel verify`: run two models, and compare errors and accuracy.

Scope: torch and `rekernel.torch`. Not here: building the models (see `verifying.models`), and printing (see
`tables.verify`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rekernel.errors import RekernelError
from rekernel.escape import shown
from rekernel.resampling.geometry import is_whole, new_size
from rekernel.torch import (
    ShiftSensitivity,
    equivariance_error,
    layer_errors,
    reduce_grid,
    shift_sensitivity,
    total_stride,
)
from rekernel.torch.editing.apply import PLAN
from rekernel.torch.measure.verify import plan_scales
from rekernel.torch.running import Forward, run
from rekernel.torch.tracing.tensor_state import first_tensor

from ..demonstration.scores import accuracy, macro_f1
from ..user_code import running
from .models import function, loaded

_NOISE_BATCH, _NOISE_DETAIL = 4, 4  # random inputs, and trained pixels per random value
_BATCH = 64


def compare(
    source: str,
    converted: str,
    factory: str,
    shape: tuple[int, ...],
    data: Path | None,
    *,
    runner: str | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Return everything that `verify` reports, ready for JSON."""
    forward: Forward | None = function(runner, "--forward") if runner else None
    original, rescaled = loaded(source, converted, factory, allow_pickle=allow_pickle)
    size = shape[1:]
    new = tuple(new_size(n, s) for n, s in zip(size, plan_scales(rescaled, len(size)), strict=True))
    images, labels = _data(data, shape, new) if data else (_noise(shape, new), None)
    x = images[: 2 * _BATCH]
    what = f"--model {shown(factory)} on an input of {'x'.join(map(str, shape))}"
    with running(what), torch.no_grad():
        layers = layer_errors(original, rescaled, x, size, forward=forward)
        error = equivariance_error(original, rescaled, x, size=size, forward=forward)
        untouched = _untouched(original, x, size, forward)
        shifts = _shifts(original, rescaled, x, size, forward)
    result: dict[str, Any] = {
        "source": source,
        "converted": converted,
        "size": list(size),
        "new_size": list(new),
        "error": error,
        "untouched_error": untouched,
        "layers": [asdict(layer) for layer in layers],
        "pictures": data is not None,
        "recalibrated": _recalibrated(original, rescaled),
        **shifts,
    }
    if labels is not None:
        result["scores"] = {
            "original": _scores(original, reduce_grid(images, size), labels, forward),
            "converted": _scores(rescaled, images, labels, forward),
        }
    return result


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the errors by layer as bars."""
    try:
        import matplotlib
    except ImportError:
        raise RekernelError("--figure needs matplotlib: pip install matplotlib") from None
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


def _recalibrated(original: nn.Module, rescaled: nn.Module) -> bool:
    """Whether batch norm layers of the rescaled model have other statistics than those of the original."""
    old = dict(original.named_buffers())
    return any(
        name.endswith("running_mean") and name in old and not torch.equal(old[name], value.to(old[name].dtype))
        for name, value in rescaled.named_buffers()
    )


def _untouched(model: nn.Module, x: Tensor, size: tuple[int, ...], forward: Forward | None) -> float | None:
    """Return the error of the original at the new size, or None if the original does not run at that size."""
    try:
        return equivariance_error(model, model, x, size=size, forward=forward)
    except (RuntimeError, ValueError):
        return None


def _shifts(
    original: nn.Module, rescaled: nn.Module, x: Tensor, size: tuple[int, ...], forward: Forward | None
) -> dict[str, Any]:
    """What the original does when the picture moves by a trained pixel, and as supersampled strided layers see it."""
    result: dict[str, Any] = {"shift": None, "strided": supersampled_strides(rescaled), "phase_shift": None}
    each = tuple(float(n > 1) for n in size)
    with suppress(RekernelError):  # an axis of the data may have no whole number of pixels for a trained one
        result["shift"] = _as_json(shift_sensitivity(original, x, each, size=size, forward=forward), each)
    scales = plan_scales(rescaled, len(size))
    if not result["strided"] or not all(map(is_whole, scales)):
        return result
    strides = total_stride(original, reduce_grid(x[:1], size), forward=forward)
    # The phase q that is farthest from 0 is the picture moved by q T of its own pixels, here in trained ones.
    phase = tuple(t * (round(s) // 2) / s for t, s in zip(strides, scales, strict=True))
    if any(phase) and all(p < n for p, n in zip(phase, size, strict=True)):
        found = shift_sensitivity(original, x, phase, size=size, forward=forward)
        result["phase_shift"] = _as_json(found, phase)
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
    """Return images as (N, C, *new) floats, integers divided by 255 and floats as they are, and the labels or None."""
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


def _scores(model: nn.Module, images: Tensor, labels: NDArray[Any], forward: Forward | None) -> dict[str, float]:
    parts = torch.split(images, _BATCH)
    with torch.no_grad():
        outputs = [first_tensor(run(model, part, forward, "the model")) for part in parts]
    guesses = torch.cat([y.argmax(1) for y in outputs if y is not None]).numpy()
    return {"accuracy": 100 * accuracy(guesses, labels), "f1": 100 * macro_f1(guesses, labels)}
