"""The measurement of `rekernel verify`: build two models, read pictures, and compare.

Scope: the options of the command. Not here: the comparison (see `rekernel.torch.verify`), and printing (see
`tables.verify`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rekernel.diffusion import DenoiserVerification
from rekernel.diffusion.measure.example_call import is_denoiser
from rekernel.errors import RekernelError
from rekernel.escape import shown
from rekernel.resampling.geometry import new_size
from rekernel.text import dims
from rekernel.torch import Verification, verify
from rekernel.torch.measure.equivariance import plan_scales
from rekernel.torch.running import Forward

from ..user_code import running
from .denoisers import compare_denoisers, of_pipelines
from .from_config import class_numbers, input_shape
from .models import function, loaded
from .pictures import Data, read_data

_NOISE_BATCH, _NOISE_DETAIL = 4, 4  # random inputs, and trained pixels per random value


@dataclass(frozen=True)
class Request:
    """The options of the command.

    source, converted : as typed
    factory, runner, times, prompt : --model, --forward, --timesteps and --prompt
    shape : --input, (C, *spatial)
    data, labels, most : --data, --labels, --limit
    mean, std, side : --mean, --std, --size; `side` is the shorter side before the crop, at the new size
    """

    source: str
    converted: str
    factory: str | None = None
    shape: tuple[int, ...] | None = None
    data: Path | None = None
    labels: Path | None = None
    most: int = 256
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    side: int | None = None
    runner: str | None = None
    times: tuple[float, ...] | None = None
    prompt: str | None = None
    allow_pickle: bool = False


def compare(request: Request) -> Verification | DenoiserVerification:
    """Build, read and measure; a denoiser of diffusers is measured as one, unless --forward says how to run it.

    Raises
    ------
    RekernelError
        For everything that the user can correct.
    """
    forward: Forward | None = function(request.runner, "--forward") if request.runner else None
    source, converted, pipeline = of_pipelines(request.source, request.converted)
    pair = loaded(source, converted, request.factory, allow_pickle=request.allow_pickle)
    shape = request.shape or input_shape(pair.config, pair.preprocessing.size)
    if shape is None:
        raise RekernelError(
            f"{shown(request.source, 400)}: nothing beside it tells the trained size; pass it: --input 3x224x224"
        )
    size = shape[1:]
    if forward is None and is_denoiser(pair.original):
        return compare_denoisers(
            pair, pair.folder or Path(source), pipeline, size, times=request.times, prompt=request.prompt,
            data=request.data, most=request.most,
        )  # fmt: skip
    for flag, value in (("--timesteps", request.times), ("--prompt", request.prompt)):
        if value is not None:
            raise RekernelError(f"{flag}: {type(pair.original).__name__} is not a denoiser that rekernel calls itself")
    new = tuple(new_size(n, s) for n, s in zip(size, plan_scales(pair.rescaled, len(size)), strict=True))
    around = None if request.side is None else request.side / min(new)
    if around is not None and around < 1:
        raise RekernelError(f"--size {request.side}: is smaller than the new size, {dims(new[::-1])}")
    how = pair.preprocessing.with_options(request.mean, request.std, around)
    how.check(shape[0])
    numbers = class_numbers(pair.config)
    if request.data is None:
        if request.labels is not None:
            raise RekernelError("--labels: there are no pictures that they belong to; pass --data too")
        data = Data(noise(shape, new), None)
    else:
        data = read_data(
            request.data, shape[0], new, how, most=request.most, label_file=request.labels, numbers=numbers
        )
    named = f"--model {shown(request.factory)}" if request.factory else type(pair.original).__name__
    with running(f"{named} on an input of {'x'.join(map(str, shape))}"):
        return verify(
            pair.original, pair.rescaled, data.images, size=size, labels=data.labels, forward=forward,
            pictures=request.data is not None, classes={number: name for name, number in numbers.items()},
            notes=(*data.notes, *([how.note] if how.note and request.data is not None else [])),
        )  # fmt: skip


def draw(found: Verification, path: Path) -> None:
    """Draw the errors by layer as bars."""
    try:
        import matplotlib
    except ImportError:
        raise RekernelError("--figure needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    layers = found.layers
    figure, axes = pyplot.subplots(figsize=(8, max(2.0, 0.22 * len(layers) + 1)), layout="constrained")
    axes.barh([shown(layer.name, 60) for layer in layers], [layer.error for layer in layers], color="#0072b2")
    axes.axvline(found.converted.error, color="#d55e00", label="whole network")
    axes.invert_yaxis()
    axes.set(xlabel="relative error of the reduced output", title="Rescaled against original, layer by layer")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def noise(shape: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Smooth noise of the new size, the same every time: 4 inputs with one random value per 4 trained pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = [max(2, n // _NOISE_DETAIL) for n in shape[1:]]
    values = torch.randn(_NOISE_BATCH, shape[0], *coarse, generator=generator)
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(new)]
    made: Any = nn.functional.interpolate(values, size=new, mode=mode, align_corners=False)
    return torch.as_tensor(made)
