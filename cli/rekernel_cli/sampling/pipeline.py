"""Sampling of a diffusers pipeline through its own call: latents, prompts, classes.

Knows the names that diffusers' pipelines give to their arguments and parts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rekernel.checkpoint.pipeline_folder import Pipeline
from rekernel.checkpoint.variants import only_variant
from rekernel.diffusion import load_pipeline
from rekernel.diffusion.denoiser.names import DENOISERS
from rekernel.diffusion.pipelines.load import is_rescaled
from rekernel.diffusion.pipelines.record import read_records
from rekernel.errors import RekernelError
from rekernel.escape import shown

from ..user_code import running
from .request import Request, Size, Sizes, attachments, pair, size_of


def from_pipeline(request: Request, pipeline: Pipeline, stack: ExitStack, said: list[str]) -> NDArray[np.uint8]:
    """Pictures as (N, H, W, C); `said` gets a line for each part that was attached."""
    variant = only_variant(pipeline)
    rescaled = {name for name, component in pipeline.components.items() if is_rescaled(component, variant)}
    records = read_records(pipeline)
    rescaled |= {name for name, found in records.items() if found.plan is not None}
    pipe = _loaded(request, variant, any_rescaled=bool(rescaled))
    kind = type(pipe).__name__
    takes = inspect.signature(pipe.__call__).parameters
    if "num_frames" in takes:
        raise RekernelError(f"{kind} makes videos; sample draws pictures")
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    record, times = next(iter(records.values()), None), _pixels_per_cell(pipe)
    # `load_pipeline` put the new size of rescaled weights into the config.
    own = pair(getattr(getattr(denoiser, "config", None), "sample_size", None), times)
    sizes = Sizes(
        pair(record.sample_size, times) if record else own,
        pair(record.new_size, times) if record else own,
        not rescaled.isdisjoint(DENOISERS),
    )
    parts = attachments(request, record, sizes)
    options = _options(request, kind, takes, denoiser)
    if request.size or sizes.usual != own:
        options |= _sized(size_of(request, sizes), kind, takes, denoiser, times)
    for part in parts:
        stack.enter_context(part.attach(pipe))
        said.append(repr(part))
    generator = torch.Generator().manual_seed(request.seed)
    shape = "" if request.size is None else f" on {request.size[1]}x{request.size[0]} pixels"
    with running(f"{kind}{shape}"):
        output = pipe(**options, num_inference_steps=request.steps, generator=generator, output_type="np")
    images = getattr(output, "images", None)
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        raise RekernelError(f"{kind} makes no pictures; sample draws pictures alone")
    pixels: NDArray[np.uint8] = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return pixels


def _loaded(request: Request, variant: str | None, *, any_rescaled: bool) -> Any:
    """The pipeline, with nothing attached; in float32, which every layer knows on a CPU."""
    diffusers: Any = import_module("diffusers")
    with suppress(ImportError):
        logs: Any = import_module("transformers.utils.logging")
        logs.disable_progress_bar()
    with running("loading the pipeline"):
        if any_rescaled:
            pipe = load_pipeline(request.folder, variant=variant)
            pipe.rekernel.remove()
        else:
            pipe = diffusers.DiffusionPipeline.from_pretrained(request.folder, variant=variant)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(torch.float32)


def _options(request: Request, kind: str, takes: Mapping[str, Any], denoiser: Any) -> dict[str, Any]:
    """What the call is told of prompt, classes, count and classifier-free guidance, each as far as it takes them."""
    options: dict[str, Any] = {}
    for flag, value, name in (
        ("--prompt", request.prompt, "prompt"),
        ("--classes", request.classes, "class_labels"),
        ("--cfg", request.cfg, "guidance_scale"),
    ):
        if value is not None and name not in takes:
            raise RekernelError(f"{flag}: {shown(kind)} takes no {name}; leave it out")
    if request.prompt is not None:
        options["prompt"] = [request.prompt] * request.count
    elif "class_labels" in takes:
        config = getattr(denoiser, "config", None)
        known = getattr(config, "num_embeds_ada_norm", None) or getattr(config, "num_class_embeds", None)
        if known is not None:
            options["class_labels"] = request.class_numbers(known, known)
        elif request.classes is not None:
            raise RekernelError("--classes: this model has no classes")
    elif "batch_size" in takes:
        options["batch_size"] = request.count
    return options if request.cfg is None else {**options, "guidance_scale": request.cfg}


def _sized(size: Size, kind: str, takes: Mapping[str, Any], denoiser: Any, times: int) -> dict[str, int]:
    """Arguments for the size; a call without them reads the denoiser's config, which then says it."""
    height, width = size
    if {"height", "width"} <= takes.keys():
        return {"width": width, "height": height}
    if denoiser is None or height % times or width % times:
        raise RekernelError(f"--size {width}x{height}: {shown(kind)} draws multiples of {times} pixels")
    cells = [height // times, width // times]
    denoiser.register_to_config(sample_size=cells if height != width else cells[0])
    return {}


def _pixels_per_cell(pipe: Any) -> int:
    """Pixels to one of the denoiser's, per axis."""
    said = getattr(pipe, "vae_scale_factor", None)
    if isinstance(said, int):
        return said
    vae: Any = getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)
    channels = getattr(getattr(vae, "config", None), "block_out_channels", None)
    return 2 ** (len(channels) - 1) if channels else 1
