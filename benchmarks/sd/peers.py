"""Run other people's methods on the same pipeline, and say in one line why one of them cannot run here.

Scope: one small adapter each. Not here: rekernel's own methods (see `methods`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from rekernel.errors import RekernelError
from rekernel.escape import cause

Draw = Callable[..., Image.Image]
"""Function (prompt, generator) -> picture."""


class NotApplicableError(RekernelError):
    """A method that cannot run on this machine or on this pipeline; the message is the reason."""


@dataclass(frozen=True)
class Peer:
    """A method of others.

    attached : function (pipe, side, trained side, arguments of the call, options) -> context of a `Draw`
    leaves_traces : whether the pipeline has to be loaded again afterwards
    """

    attached: Callable[[Any, int, int, dict[str, Any], Mapping[str, Any]], AbstractContextManager[Draw]]
    leaves_traces: bool = False


@contextmanager
def _img2img(pipe: Any, side: int, trained: int, call: dict[str, Any], options: Mapping[str, Any]) -> Iterator[Draw]:
    """diffusers' own "hires fix": a sample of the trained size, enlarged, through the image-to-image pipeline."""
    from diffusers import AutoPipelineForImage2Image

    try:
        second = AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError as error:
        raise NotApplicableError(f"diffusers has no image-to-image pipeline for it: {cause(error)}") from None
    second.set_progress_bar_config(disable=True)
    sized = {"height": side, "width": side} if "height" in inspect.signature(second.__call__).parameters else {}

    def draw(prompt: str, generator: Any) -> Image.Image:
        small = pipe(prompt, height=trained, width=trained, generator=generator, **call).images[0]
        large = small.resize((side, side), Image.Resampling.LANCZOS)
        return second(prompt, image=large, **options, generator=generator, **sized, **call).images[0]

    yield draw


@contextmanager
def _multidiffusion(
    pipe: Any, side: int, trained: int, call: dict[str, Any], options: Mapping[str, Any]
) -> Iterator[Draw]:
    """MultiDiffusion (arXiv 2302.08113), as diffusers has it: overlapping windows of the trained size."""
    from diffusers import DDIMScheduler, StableDiffusionPanoramaPipeline

    if type(pipe).__name__ != "StableDiffusionPipeline":
        raise NotApplicableError(f"diffusers has it for StableDiffusionPipeline alone, and this is {_kind(pipe)}")
    parts = {**pipe.components, "scheduler": DDIMScheduler.from_config(pipe.scheduler.config)}
    second = StableDiffusionPanoramaPipeline(**parts, requires_safety_checker=False)
    second.set_progress_bar_config(disable=True)

    def draw(prompt: str, generator: Any) -> Image.Image:
        return second(prompt, height=side, width=side, generator=generator, **options, **call).images[0]

    yield draw


@contextmanager
def _hidiffusion(
    pipe: Any, side: int, trained: int, call: dict[str, Any], options: Mapping[str, Any]
) -> Iterator[Draw]:
    """HiDiffusion (arXiv 2311.17528), by the authors' package."""
    try:
        from hidiffusion import apply_hidiffusion, remove_hidiffusion
    except Exception as error:  # a stranger's package may fail in any way
        raise NotApplicableError(f"the package hidiffusion cannot be imported: {cause(error)}") from None
    if type(pipe).__name__ not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        raise NotApplicableError(f"HiDiffusion supports Stable Diffusion 1.5, 2.1 and XL, and this is {_kind(pipe)}")
    apply_hidiffusion(pipe, **options)
    try:
        yield lambda prompt, generator: pipe(prompt, height=side, width=side, generator=generator, **call).images[0]
    finally:
        remove_hidiffusion(pipe)


ADAPTERS: dict[str, Peer] = {
    "img2img": Peer(_img2img),
    "multidiffusion": Peer(_multidiffusion),
    "hidiffusion": Peer(_hidiffusion, leaves_traces=True),  # its `remove` leaves attributes on the UNet
}


def _kind(pipe: Any) -> str:
    return type(pipe).__name__
