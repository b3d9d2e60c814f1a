"""Sort the arguments of a cascade's call: those of the pipeline, and those that differ from stage to stage.

Scope: names of the arguments of diffusers pipelines. Not here: sampling (see `running`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...errors import RekernelError
from ..caller import calling
from .loop import Denoising

_COUNTS = ("prompt", "prompt_embeds", "image_embeds", "class_labels", "labels")
_TIMES = ("num_images_per_prompt", "num_videos_per_prompt")
_OURS = ("height", "width")
_OWN_SIZE = ("HiDreamImagePipeline",)
_OBLONG = ("DDIMPipeline", "DDPMPipeline")  # they read a sample_size of two numbers
_MAKING = ("sizes", "scale", "strength", "guidance", "kernels", "positions", "enlarge", "scheduler")
"""The arguments of `GuidedCascade` itself: pipelines that take any name would ignore them."""


def check_starts_from_noise(pipe: Any) -> None:
    """Raise for a pipeline that starts each stage from the same picture: img2img, edits and upscalers; and for sound.

    A pipeline that samples sound beside its video starts the sound from noise, which cannot start late.
    """
    takes, name = inspect.signature(pipe.__call__).parameters, type(pipe).__name__
    if any(given.startswith("audio_") for given in takes) and getattr(pipe, "audio_vae", takes) is not None:
        raise RekernelError(
            f"{name} samples sound, which a cascade cannot enlarge; take a pipeline of pictures or of videos without "
            f"sound"
        )
    if name in _OWN_SIZE:
        raise RekernelError(f"{name} moves every size to its own area, so a cascade cannot enlarge it")
    if {"image", "strength"} <= takes.keys() and "mask_image" not in takes:
        given = "start= (image= is that of the control)" if "control_image" in takes else "image="
        raise RekernelError(
            f"{name} starts from a picture itself; make the cascade of a pipeline that starts from "
            f"noise (diffusers.AutoPipelineForText2Image.from_pipe(pipe)), and pass the picture as {given}"
        )
    if "image" in takes and ("image_guidance_scale" in takes or "noise_level" in takes or "Upscale" in name):
        raise RekernelError(
            f"{name} edits or enlarges a picture that it is given, at the size of that picture; make the cascade of a "
            f"pipeline that starts from noise, and pass the picture as image= to the cascade"
        )


def check_shapes(pipe: Any, network: Any, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise for oblong sizes of a pipeline that takes no height and width and samples squares alone (DiT)."""
    if _OURS[0] in inspect.signature(pipe.__call__).parameters or all(height == width for height, width in sizes):
        return
    kinds = {kind.__name__ for kind in type(pipe).__mro__}
    if kinds.isdisjoint(_OBLONG) and isinstance(getattr(getattr(network, "config", None), "sample_size", None), int):
        raise RekernelError(f"sizes: {type(pipe).__name__} takes no height and width, and makes squares; pass squares")


class Arguments:
    """The arguments of a pipeline by name, and the names that it takes.

    given : the user's arguments
    takes : the parameters of the pipeline's call
    start : the picture to start from, or None
    """

    def __init__(self, pipe: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.name = type(pipe).__name__
        signature = inspect.signature(pipe.__call__)
        self.takes = signature.parameters
        self._transformer = getattr(pipe, "transformer", None) is not None
        rest = dict(kwargs)
        for name in _OURS:
            if rest.pop(name, None) is not None:
                raise RekernelError(f"{name}=: the sizes are those of the cascade; make one with other sizes=")
        for name in () if isinstance(pipe, Denoising) else _MAKING:  # a network alone may have such options
            if name in rest and name not in self.takes:
                raise RekernelError(
                    f"{name}=: belongs to the cascade, not to its call; write GuidedCascade(pipe, {name}=...)"
                )
        self.start = rest.pop("start", None)
        if "image" not in self.takes:
            image = rest.pop("image", None)
            if image is not None and self.start is not None:
                raise RekernelError("image= and start= both name the picture to start from; give one of them")
            self.start = image if self.start is None else self.start
        try:
            bound = signature.bind_partial(*args, **rest).arguments
        except TypeError as error:
            raise RekernelError(f"{self.name}: {error}") from None
        self.given: dict[str, Any] = {}
        for name, value in bound.items():
            spread = self.takes[name].kind is inspect.Parameter.VAR_KEYWORD
            self.given |= value if spread else {name: value}
        self._refuse(pipe)
        if any(self.given.get(name) is not None for name in _OURS):
            raise RekernelError("height and width: the sizes are those of the cascade; make one with other sizes=")
        if self.start is not None and self.given.get("latents") is not None:
            raise RekernelError(
                "latents= is the noise of the first stage, which a picture to start from leaves out; give one of them"
            )
        if self.given.get("padding_mask_crop") is not None:
            raise RekernelError(
                "padding_mask_crop=: crops the picture around its mask, and the stages of a cascade have their own "
                "sizes; omit it, or crop the picture before"
            )

    def _refuse(self, pipe: Any) -> None:
        """Raise for arguments and options of the pipeline that a stage cannot follow."""
        if getattr(pipe, "free_init_enabled", False):
            raise RekernelError(f"{self.name}: FreeInit samples from noise again; call disable_free_init() first")
        steps = self.given.get("num_inference_steps")
        if isinstance(steps, int) and steps < 1:
            raise RekernelError(f"num_inference_steps={steps} must be at least 1")
        if self.given.get("denoising_start") is not None:
            raise RekernelError("denoising_start: a cascade starts from noise; omit denoising_start=")
        if self.given.get("enable_sound"):
            raise RekernelError("enable_sound: a cascade cannot enlarge sound; omit enable_sound=")
        listed = self.takes.get("guidance_schedule")  # Ideogram 4 has one by default
        if listed is not None and self.given.get("guidance_schedule", listed.default) is not None:
            raise RekernelError(
                "guidance_schedule: its entries count from the first step, and a stage starts later; pass "
                "guidance_schedule=None and guidance_scale="
            )

    @property
    def generator(self) -> Any:
        """The generator, or list of generators, of the call."""
        return self.given.get("generator")

    @property
    def latents(self) -> bool:
        """Whether the pipeline can be given the latents to start with.

        Inpainting pipelines of transformers take them, and then mix them with the known picture or fail.
        """
        return "latents" in self.takes and not (self._transformer and "mask_image" in self.takes)

    @property
    def sized(self) -> bool:
        """Whether the pipeline can be given a height and a width."""
        return {"height", "width"} <= self.takes.keys()

    def count(self) -> int:
        """The number of pictures that the call makes."""
        each = math.prod(n for name in _TIMES if isinstance(n := self.given.get(name), int))
        for name in _COUNTS:
            value = self.given.get(name)
            if isinstance(value, list | tuple):
                return len(value) * each
            if isinstance(value, Tensor) and value.ndim:
                return value.shape[0] * each
            if value is not None:
                return each
        return int(self.given.get("batch_size") or 1) * each

    def at(self, size: tuple[int, int], done: int, *, last: bool, first: bool, latent: bool) -> dict[str, Any]:
        """The arguments of one stage.

        Parameters
        ----------
        size : pixels
        done : steps that earlier stages have made, for the user's callback
        last : whether this stage makes the result, in the form that the user asked for
        first : whether this stage starts from noise
        latent : whether other stages can leave their result in latent space
        """
        made = dict(self.given)
        if not first:
            made.pop("latents", None)
        if self.sized:
            made |= {"height": size[0], "width": size[1]}
        if "max_area" in self.takes:  # Flux Kontext would move the size to it
            made["max_area"] = size[0] * size[1]
        if "use_resolution_binning" in self.takes:
            made.setdefault("use_resolution_binning", False)  # it would move the size to a trained one
        if "strength" in self.takes and not first:
            made["strength"] = 1.0  # all steps that are left: a cascade cuts the schedule itself
        if not last:
            made.pop("return_dict", None)
            made.pop("denoising_end", None)  # it leaves noise in the result, for a refiner
            if latent and "output_type" in self.takes:
                made["output_type"] = "latent"
        callback = made.get("callback_on_step_end")
        if callback is not None and not hasattr(callback, "tensor_inputs"):  # diffusers' own know the steps of a stage
            made["callback_on_step_end"] = _counting(callback, done)
        return made


def _counting(callback: Any, done: int) -> Any:
    def counting(pipe: Any, step: int, timestep: Any, tensors: Any) -> Any:
        with calling(None):  # what the callback samples with the same network is not part of the cascade
            return callback(pipe, done + step, timestep, tensors)

    return counting
