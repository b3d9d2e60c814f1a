"""Sample a pixel-space network with a scheduler only; no code from the folder is run.

Scope: diffusers and the common interface of the schedulers. Not here: other pipelines (see `sampling.pipeline`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from rekernel.checkpoint.pipeline_folder import Pipeline
from rekernel.checkpoint.variants import only_variant
from rekernel.diffusion.pipelines.load import is_rescaled, load_component, scale_of
from rekernel.diffusion.pipelines.record import Recorded, read_record
from rekernel.errors import RekernelError
from rekernel.escape import shown
from rekernel.torch.editing.apply import PLAN

from ..terminal import console
from ..user_code import running
from .cascade import cascade_of
from .request import Request, Sizes, above_of, pair, size_of

_BATCH = 16
_NEEDED = ("set_timesteps", "timesteps", "init_noise_sigma", "scale_model_input", "step")


@dataclass(frozen=True)
class PixelPipeline:
    """A pixel-space network with its scheduler, called like a pipeline of diffusers.

    unet, scheduler : the parts that guidance and kernels read; without a VAE, the denoiser works on pixels
    advance : called after each step
    """

    unet: Any
    scheduler: Any
    advance: Callable[[], object]

    def __call__(
        self,
        latents: torch.Tensor,
        height: int,
        width: int,
        num_inference_steps: int,
        class_labels: torch.Tensor | None,
        cfg: float,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor]:
        """Sample (N, C, height, width) pixels from noise of that shape."""
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps)
        x = latents * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t)
            x = scheduler.step(_predicted(self.unet, seen, t, class_labels, cfg), t, x).prev_sample
            self.advance()
        return (x,)


def is_of_pixels(pipeline: Pipeline) -> bool:
    """Whether the folder holds only a pixel-space network and a scheduler."""
    unet = pipeline.components.get("unet")
    return unet is not None and unet.class_name == "UNet2DModel" and pipeline.components.keys() == {"unet", "scheduler"}


def from_noise(
    request: Request, pipeline: Pipeline, stack: ExitStack, said: list[str], *, quiet: bool
) -> NDArray[np.uint8]:
    """Return pictures as (N, H, W, C); a line for the cascade, or for each attached part, is added to `said`."""
    if request.prompt is not None:
        raise RekernelError("--prompt: a pixel-space network does not take text; omit --prompt")
    unet, record, rescaled = _network(request, pipeline)
    scheduler = _scheduler(request, pipeline)
    trained = pair(record.sample_size if record else unet.config.sample_size)
    sizes = Sizes(trained, pair(record.new_size) if record else trained, rescaled)
    height, width = size_of(request, sizes)
    err = console(stderr=True)
    progress = Progress(console=err, disable=quiet or not err.is_terminal, transient=True)
    pipe = _named(pipeline)(unet, scheduler, lambda: progress.advance(task))
    above = above_of(request, record, sizes)
    sample: Any = pipe
    steps = request.steps
    if above.cascade is not None:
        sample = cascade_of(pipe, above)
        said.append(repr(sample))
        (height, width), *_ = sample.sizes
        steps += sum(int(request.steps * strength) for strength in sample.settings.strengths)
    for part in above.parts:
        stack.enter_context(part.attach(pipe))
        said.append(repr(part))
    labels = _labels(request, unet.config.num_class_embeds)
    if request.cfg not in (None, 1) and labels is None:
        raise RekernelError("--cfg: this model has no classes")
    fitting = 2 ** (len(unet.config.block_out_channels) - 1)
    hint = f"; it takes multiples of {fitting}" if height % fitting or width % fitting else ""
    generator = torch.Generator().manual_seed(request.seed)
    with progress, torch.inference_mode(), running(f"{type(unet).__name__} on {width}x{height} pixels", hint):
        noise = torch.randn(request.count, unet.config.in_channels, height, width, generator=generator)
        made = []
        task = progress.add_task("sampling", total=steps * math.ceil(request.count / _BATCH))
        for first in range(0, request.count, _BATCH):
            part = slice(first, first + _BATCH)
            sized = {} if above.cascade is not None else {"height": height, "width": width}
            (x,) = sample(
                latents=noise[part], num_inference_steps=request.steps, generator=generator, **sized,
                class_labels=None if labels is None else labels[part], cfg=1.0 if request.cfg is None else request.cfg,
            )  # fmt: skip
            made.append(x)
    pixels = ((torch.cat(made) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()


def _named(pipeline: Pipeline) -> type[PixelPipeline]:
    """Return the class with the name that the folder gives its pipeline, which messages show."""
    name = pipeline.index.get("_class_name")
    told = name[-1] if isinstance(name, list) and name else name
    return type(told, (PixelPipeline,), {}) if isinstance(told, str) and told.isidentifier() else PixelPipeline


def _network(request: Request, pipeline: Pipeline) -> tuple[Any, Recorded | None, bool]:
    """Return the network, the record of the network, and whether the weights are rescaled."""
    diffusers: Any = import_module("diffusers")
    component = pipeline.components["unet"]
    record = read_record(request.folder / "unet")
    plan = record.plan if record else None
    options: dict[str, Any] = {"variant": only_variant(pipeline)}
    if plan is None and not is_rescaled(component, options["variant"]):
        with running("loading UNet2DModel"):
            return diffusers.UNet2DModel.from_pretrained(request.folder / "unet", **options).eval(), record, False
    with running("loading UNet2DModel"):
        unet: Any = load_component(request.folder, component, plan, options).to(torch.float32)
    if record is None:
        plan = getattr(unet, PLAN)
        record = Recorded(scale_of(plan), unet.config.sample_size, plan=plan)
    return unet, record, True


def _scheduler(request: Request, pipeline: Pipeline) -> Any:
    diffusers: Any = import_module("diffusers")
    name = pipeline.components["scheduler"].class_name
    made = getattr(diffusers, name, None)
    if made is None:
        raise RekernelError(f"{shown(name)}: diffusers has no scheduler with this name")
    with running(f"loading {shown(name)}"):
        scheduler = made.from_pretrained(request.folder / "scheduler")
    step = inspect.signature(getattr(scheduler, "step", lambda: None))
    try:
        step.bind(None, None, None)  # prediction, time, image
    except TypeError:
        fits = False
    else:
        fits = all(hasattr(scheduler, needed) for needed in _NEEDED)
    if not fits:
        raise RekernelError(
            f"{shown(name)}: lacks the usual step(), so `rekernel sample` cannot use it; put another scheduler, "
            f"such as DDIMScheduler, into the folder scheduler/"
        )
    return scheduler


def _predicted(unet: Any, x: torch.Tensor, t: Any, classes: torch.Tensor | None, cfg: float) -> torch.Tensor:
    """Return the prediction; classifier-free guidance runs one batch, first half without classes."""
    if cfg == 1 or classes is None:
        plain: torch.Tensor = unet(x, t, class_labels=classes).sample
        return plain
    none = torch.full_like(classes, unet.config.num_class_embeds - 1)
    free, asked = unet(torch.cat([x, x]), t, class_labels=torch.cat([none, classes])).sample.chunk(2)
    guided: torch.Tensor = free + cfg * (asked - free)
    return guided


def _labels(request: Request, known: int | None) -> torch.Tensor | None:
    """Return one class per picture. By default, the last class is left out, since it usually stands for no class."""
    if known is None:
        if request.classes is not None:
            raise RekernelError("--classes: this model has no classes")
        return None
    return torch.tensor(request.class_numbers(known, known - 1))
