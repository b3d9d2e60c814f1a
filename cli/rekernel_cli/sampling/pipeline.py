"""Sample a diffusers pipeline by calling the pipeline: latents, prompts, classes.

Scope: the names of the arguments and parts of diffusers pipelines. Not here: pixel-space networks without a pipeline
class (see `sampling.pixels`).
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
from rekernel.diffusion.denoiser.target import Target
from rekernel.diffusion.picture_decoder import cell_of
from rekernel.diffusion.pipelines.load import is_rescaled
from rekernel.diffusion.pipelines.record import read_records
from rekernel.errors import RekernelError
from rekernel.escape import shown, shown_path

from ..user_code import running
from .cascade import cascade_of
from .request import Request, Size, Sizes, above_of, pair, size_of


def from_pipeline(request: Request, pipeline: Pipeline, stack: ExitStack, said: list[str]) -> NDArray[np.uint8]:
    """Return pictures as (N, H, W, C); a line for the cascade, or for each attached part, is added to `said`."""
    variant = only_variant(pipeline)
    rescaled = {name for name, component in pipeline.components.items() if is_rescaled(component, variant)}
    records = read_records(pipeline)
    rescaled |= {name for name, found in records.items() if found.plan is not None}
    _check_code(request, pipeline)
    _check_call(request, getattr(import_module("diffusers"), str(pipeline.index.get("_class_name")), None))
    pipe = _loaded(request, variant, any_rescaled=bool(rescaled))
    kind = type(pipe).__name__
    _check_call(request, type(pipe))
    takes = inspect.signature(pipe.__call__).parameters
    denoiser = next((part for name in DENOISERS if (part := getattr(pipe, name, None)) is not None), None)
    record, times = next(iter(records.values()), None), cell_of(pipe)
    # For rescaled weights, `load_pipeline` wrote the new size into the config.
    own = pair(getattr(getattr(denoiser, "config", None), "sample_size", None) or Target(pipe).usual, times)
    sizes = Sizes(
        pair(record.sample_size, times) if record else own,
        pair(record.new_size, times) if record else own,
        not rescaled.isdisjoint(DENOISERS),
    )
    above = above_of(request, record, sizes)
    options = _options(request, kind, takes, denoiser)
    sample: Any = pipe
    if above.cascade is not None:
        sample = cascade_of(pipe, above)
        said.append(repr(sample))
    else:
        if request.size or sizes.usual != own:
            options |= _sized(size_of(request, sizes), kind, takes, denoiser, times)
        for part in above.parts:
            stack.enter_context(part.attach(pipe))
            said.append(repr(part))
    generator = torch.Generator().manual_seed(request.seed)
    shape = "" if request.size is None else f" on {request.size[1]}x{request.size[0]} pixels"
    with running(f"{kind}{shape}"):
        output = sample(**options, num_inference_steps=request.steps, generator=generator, output_type="np")
    images = getattr(output, "images", None)
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        raise RekernelError(f"{kind} does not make pictures; `rekernel sample` only draws pictures")
    pixels: NDArray[np.uint8] = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return pixels


def _check_code(request: Request, pipeline: Pipeline) -> None:
    if pipeline.brings_code and not request.allow_code:
        raise RekernelError(
            f"{shown_path(request.folder)}: has Python code of its own, which sampling would run; read it, then pass "
            f"--allow-code"
        )


def _check_call(request: Request, kind: Any) -> None:
    """Raise for a pipeline class whose pictures the command cannot ask for; before loading, where diffusers has it."""
    if not inspect.isclass(kind):
        return
    takes = inspect.signature(kind.__call__).parameters
    if "num_frames" in takes:
        raise RekernelError(f"{kind.__name__} makes videos; `rekernel sample` only draws pictures")
    if "prompt" in takes and request.prompt is None:
        raise RekernelError(f"--prompt: {kind.__name__} draws what a text says; pass --prompt TEXT")


def _loaded(request: Request, variant: str | None, *, any_rescaled: bool) -> Any:
    """Return the pipeline with nothing attached, in float32, which every layer supports on a CPU."""
    diffusers: Any = import_module("diffusers")
    with suppress(ImportError):
        logs: Any = import_module("transformers.utils.logging")
        logs.disable_progress_bar()
    options = {"variant": variant} | ({"trust_remote_code": True} if request.allow_code else {})
    with running("loading the pipeline"):
        if any_rescaled:
            pipe = load_pipeline(request.folder, **options)
            pipe.rekernel.remove()
        else:
            pipe = diffusers.DiffusionPipeline.from_pretrained(request.folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(torch.float32)


def _options(request: Request, kind: str, takes: Mapping[str, Any], denoiser: Any) -> dict[str, Any]:
    """Return arguments of the call: prompt, classes, count and guidance scale, where the pipeline takes them."""
    options: dict[str, Any] = {}
    for flag, value, name in (
        ("--prompt", request.prompt, "prompt"),
        ("--classes", request.classes, "class_labels"),
        ("--cfg", request.cfg, "guidance_scale"),
    ):
        if value is not None and name not in takes:
            raise RekernelError(f"{flag}: {shown(kind)} does not take {name}; omit {flag}")
    if request.prompt is not None:
        options["prompt"] = [request.prompt] * request.count
    elif "class_labels" in takes:
        config = getattr(denoiser, "config", None)
        known = getattr(config, "num_embeds_ada_norm", None) or getattr(config, "num_class_embeds", None)
        if known is not None:
            options["class_labels"] = request.class_numbers(known, known)
        elif takes["class_labels"].default is inspect.Parameter.empty:
            if request.classes is None:
                raise RekernelError(f"--classes: {kind} has to be told what to draw; pass --classes 0-9, for example")
            options["class_labels"] = request.class_numbers(max(part[-1] for part in request.classes) + 1, 0)
        elif request.classes is not None:
            raise RekernelError("--classes: this model has no classes")
    elif "batch_size" in takes:
        options["batch_size"] = request.count
    return options if request.cfg is None else {**options, "guidance_scale": request.cfg}


def _sized(size: Size, kind: str, takes: Mapping[str, Any], denoiser: Any, times: int) -> dict[str, int]:
    """Return arguments for the size; if the call takes none, write the size into the config of the denoiser."""
    height, width = size
    if {"height", "width"} <= takes.keys():
        return {"width": width, "height": height}
    if denoiser is None or height % times or width % times:
        raise RekernelError(f"--size {width}x{height}: {shown(kind)} needs multiples of {times} pixels")
    cells = [height // times, width // times]
    denoiser.register_to_config(sample_size=cells if height != width else cells[0])
    return {}
