"""Sampling for `rekernel sample`: a pipeline, what is attached to it, and a grid of its pictures.

Knows diffusers, PIL and `rekernel.diffusion`.
"""

from __future__ import annotations

import io
import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress

from rekernel.atomic import write_atomic
from rekernel.diffusion import Recorded, SupersampledKernels, UpsampleGuidance, load_pipeline
from rekernel.diffusion.host import PIXELS
from rekernel.diffusion.pipelines import is_rescaled, load_component, scale_of
from rekernel.diffusion.recorded import DENOISERS, read_record
from rekernel.errors import RekernelError
from rekernel.escape import shown, shown_path
from rekernel.pipeline_folder import Pipeline, find_pipeline

from .terminal import console

_GAP = 2  # pixels between pictures
_BATCH = 16
_SMALLEST = 512  # pixels of the grid's side: smaller ones are enlarged by a whole number, pixel for pixel


@dataclass(frozen=True)
class Request:
    """What the command line asked for.

    size : (height, width) or None
    cfg : of classifier-free guidance; None for the pipeline's own, or none
    guidance, kernels : arguments, or None for neither
    recorded : whether to attach what the folder records
    """

    folder: Path
    size: tuple[int, int] | None
    count: int
    steps: int
    seed: int
    classes: str | None
    cfg: float | None
    prompt: str | None
    guidance: dict[str, Any] | None
    kernels: dict[str, Any] | None
    recorded: bool


def make_grid(request: Request, out: Path, *, quiet: bool) -> list[str]:
    """Sample, write the grid, and say what was done."""
    diffusers: Any = import_module("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    pipeline = find_pipeline(request.folder)
    if pipeline is None:
        raise RekernelError(
            f"{shown_path(request.folder)}: is no diffusers pipeline folder (it has no model_index.json)"
        )
    said: list[str] = []
    with ExitStack() as stack:
        if _is_plain_unet(pipeline) and request.prompt is None:
            images = _from_noise(request, pipeline, stack, said, quiet)
        else:
            images = _from_pipeline(request, pipeline, stack, said)
    buffer = io.BytesIO()
    _grid(images).save(buffer, "PNG")
    write_atomic(out, buffer.getvalue(), force=True)
    height, width = images.shape[1:3]
    return [*said, f"{len(images)} pictures of {width}x{height} in {shown_path(out)}"]


def _is_plain_unet(pipeline: Pipeline) -> bool:
    unet = pipeline.components.get("unet")
    return unet is not None and unet.class_name == "UNet2DModel" and "scheduler" in pipeline.index


def _from_noise(
    request: Request, pipeline: Pipeline, stack: ExitStack, said: list[str], quiet: bool
) -> NDArray[np.uint8]:
    """A network on pixels and its scheduler: nothing else is needed, and no code of the folder is run."""
    diffusers: Any = import_module("diffusers")
    index = json.loads((request.folder / "model_index.json").read_text(encoding="utf-8"))
    scheduler_class = getattr(diffusers, str(index["scheduler"][1]), None)
    if scheduler_class is None:
        raise RekernelError(f"{shown(str(index['scheduler'][1]))}: diffusers has no scheduler of that name")
    component = pipeline.components["unet"]
    record = read_record(request.folder / "unet")
    plan = record.plan if record else None
    unet: Any
    if plan is not None or is_rescaled(component):
        unet = load_component(request.folder, component, plan, {})
        record = Recorded(scale_of(unet.rekernel_plan), record.sample_size if record else unet.config.sample_size)
    else:
        unet = diffusers.UNet2DModel.from_pretrained(request.folder / "unet").eval()
    scheduler = scheduler_class.from_pretrained(request.folder / "scheduler")
    trained = _pair(record.sample_size if record else unet.config.sample_size)
    found = record if request.recorded else None
    default = _pair(found.new_size) if found else trained
    height, width = request.size or default
    scale = (height / trained[0], width / trained[1])
    if request.guidance is not None:  # what a pipeline of pixels gets
        theta, _, enlarge = PIXELS
        request = replace(request, guidance={"theta": theta, "enlarge": enlarge, **request.guidance})
    parts = _parts(request, scale) if found is None else [found.make_kernels(), found.make_guidance()]
    for part in filter(None, parts):
        stack.enter_context(part.attach(unet, scheduler=scheduler))
        said.append(repr(part))
    labels = _labels(request, unet.config.num_class_embeds)
    noise = torch.randn(
        request.count, unet.config.in_channels, height, width, generator=torch.Generator().manual_seed(request.seed)
    )
    made = []
    err = console(stderr=True)
    with (
        Progress(console=err, disable=quiet or not err.is_terminal, transient=True) as progress,
        torch.inference_mode(),
    ):
        task = progress.add_task("sampling", total=request.steps * math.ceil(request.count / _BATCH))
        for first in range(0, request.count, _BATCH):
            part = slice(first, first + _BATCH)
            classes = None if labels is None else labels[part]
            scheduler.set_timesteps(request.steps)
            x = noise[part] * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                seen = scheduler.scale_model_input(x, t)
                prediction = _predicted(unet, seen, t, classes, 1.0 if request.cfg is None else request.cfg)
                x = scheduler.step(prediction, t, x).prev_sample
                progress.advance(task)
            made.append(x)
    pixels = ((torch.cat(made) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()


def _predicted(unet: Any, x: torch.Tensor, t: Any, classes: torch.Tensor | None, cfg: float) -> torch.Tensor:
    """The prediction; with classifier-free guidance from a batch of two halves, the one without a class first."""
    if cfg == 1:
        plain: torch.Tensor = unet(x, t, class_labels=classes).sample
        return plain
    if classes is None:
        raise RekernelError("--cfg: this model has no classes")
    none = torch.full_like(classes, unet.config.num_class_embeds - 1)
    free, asked = unet(torch.cat([x, x]), t, class_labels=torch.cat([none, classes])).sample.chunk(2)
    guided: torch.Tensor = free + cfg * (asked - free)
    return guided


def _from_pipeline(request: Request, pipeline: Pipeline, stack: ExitStack, said: list[str]) -> NDArray[np.uint8]:
    """Any other pipeline, through its own call."""
    diffusers: Any = import_module("diffusers")
    rescaled = any(map(is_rescaled, pipeline.components.values()))
    recorded = rescaled or (request.recorded and read_record_of(request.folder))
    pipe = load_pipeline(request.folder) if recorded else diffusers.DiffusionPipeline.from_pretrained(request.folder)
    pipe.set_progress_bar_config(disable=True)
    if recorded:
        said.extend(repr(part) for part in (pipe.rekernel.kernels, pipe.rekernel.guidance) if part is not None)
    options: dict[str, Any] = {} if request.prompt is None else {"prompt": [request.prompt] * request.count}
    denoiser: Any = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if request.size:
        height, width = request.size
        options |= {"width": width, "height": height}
        per_pixel = getattr(pipe, "vae_scale_factor", 1)
        trained = _pair(denoiser.config.sample_size)
        scale = (height / per_pixel / trained[0], width / per_pixel / trained[1])
        for part in filter(None, _parts(request, scale)):
            stack.enter_context(part.attach(pipe))
            said.append(repr(part))
    if request.cfg is not None:
        options["guidance_scale"] = request.cfg
    generator = torch.Generator().manual_seed(request.seed)
    images = pipe(**options, num_inference_steps=request.steps, generator=generator, output_type="np").images
    pixels: NDArray[np.uint8] = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return pixels


def read_record_of(folder: Path) -> bool:
    """Whether a denoiser in the folder records anything."""
    return any(read_record(folder / name) is not None for name in DENOISERS)


def _parts(request: Request, scale: tuple[float, float]) -> list[Any]:
    if request.guidance is None and request.kernels is None:
        return []
    if max(scale) <= 1:
        raise RekernelError("the size is not above the trained one, so there is nothing to guide; pass a larger --size")
    return [
        None if request.kernels is None else SupersampledKernels(scale, **request.kernels),
        None if request.guidance is None else UpsampleGuidance(scale, **request.guidance),
    ]


def _labels(request: Request, classes: int | None) -> torch.Tensor | None:
    """The classes in turn; by default all but the last of a model that has them (the null class, by custom)."""
    if classes is None:
        if request.classes is not None:
            raise RekernelError("--classes: this model has no classes")
        return None
    wanted = request.classes or f"0-{max(0, classes - 2)}"
    numbers: list[int] = []
    for part in wanted.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise RekernelError(f"--classes {wanted!r}: write numbers and ranges, 0,3,5 or 0-9")
        numbers.extend(range(int(first), int(last or first) + 1))
    if not numbers or max(numbers) >= classes:
        raise RekernelError(f"--classes {wanted!r}: this model has the classes 0 to {classes - 1}")
    return torch.tensor([numbers[i % len(numbers)] for i in range(request.count)])


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _grid(images: NDArray[np.uint8]) -> Image.Image:
    """(N, H, W, C) pictures side by side, as square as it goes."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), 255, np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        sheet[row * (height + _GAP) :][:height, column * (width + _GAP) :][:, :width] = image
    made = Image.fromarray(sheet[..., 0] if channels == 1 else sheet[..., :3])
    times = max(1, _SMALLEST // max(made.size))
    return made.resize((made.width * times, made.height * times), Image.Resampling.NEAREST)
