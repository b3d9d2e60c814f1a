"""Run the stages of a cascade on one pipeline.

Scope: the calls of the pipeline. Not here: the scheduler (see `late_scheduler`), sizes (see `sizes`), settings (see
`settings`).

Each stage after the first calls the pipeline twice. The first call ends where the pipeline sets its timesteps: they can
depend on the size (dynamic shifting), and the noise depends on them. The second call samples, from the noised image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ...errors import RekernelError
from ..caller import current_caller
from ..denoiser.call import FRAMES_FIRST
from ..formulas.schedules import FlowSchedule
from ..guidance.upsample import UpsampleGuidance
from ..kernels.supersampled import SupersampledKernels
from ..picture_decoder import autoencoder_of, samples_latents
from ..positions.rescaled import RescaledPositions
from .arguments import Arguments
from .autoencoder import Autoencoder
from .borrowing import at_sample_size, exchanged, random_state, told_once
from .enlarging import Enlarger
from .late_scheduler import LateScheduler, Prepared, repeated
from .loop import Denoising
from .networks import Networks
from .passes import IMAGES, Passes
from .sample_form import SampleForm
from .settings import CascadeSettings, at_scale, guidance_at, kernels_at
from .sizes import Size, text_of
from .start_picture import as_picture, with_channels


class Run:
    """One call of a cascade.

    Parameters
    ----------
    pipe : the pipeline
    networks : Networks of the pipeline
    sizes : pixels of each stage
    cell : pixels of the picture for one pixel of the latents
    settings : CascadeSettings
    """

    def __init__(
        self, pipe: Any, networks: Networks, sizes: Sequence[Size], cell: int, settings: CascadeSettings
    ) -> None:
        self.pipe, self.networks, self.sizes, self.cell, self.settings = pipe, networks, sizes, cell, settings
        self.target = networks.main
        self.vae, self.latent = autoencoder_of(pipe), samples_latents(pipe)
        first = type(self.target.network).__name__ in FRAMES_FIRST
        coder = None if self.vae is None else Autoencoder(self.vae, plain=hasattr(pipe, "movq"))
        self.enlarger = Enlarger(settings.enlarge, coder, cell, frames_first=first)
        self.passes = Passes()
        self._name = type(pipe).__name__

    def check(self) -> None:
        """Raise for parts that cannot be attached."""
        with ExitStack() as trial:
            self.networks.attach(trial, lambda: self._attachments(len(self.sizes) - 1, 1.0))

    @torch.no_grad()
    def result(self, arguments: Arguments) -> Any:
        """Run all stages and return what the pipeline returns at the last one."""
        self._check_decoded(arguments)
        with self.networks.alone():
            return self._result(arguments)

    def _result(self, arguments: Arguments) -> Any:
        self.networks.check_bare()
        self.check()  # again, before the first stage: the pipeline may have been changed
        whole = {"encode_prompt": told_once(self.pipe.encode_prompt)} if hasattr(self.pipe, "encode_prompt") else {}
        with exchanged(self.pipe, whole), ExitStack() as stack:
            self.networks.count(stack, self.passes)
            if arguments.start is None:
                scheduler, output = self._first(arguments)
                sample, done = self._finished(output, scheduler), scheduler.steps
                form = SampleForm.of(self.pipe, self.cell, sample, self.sizes[0])
                grid = form.grid(sample, self.sizes[0])
            else:
                done, form, grid = 0, SampleForm.of(self.pipe, self.cell), self._given(arguments)
            for index in range(1, len(self.sizes)):
                sampled = index > 1 or arguments.start is None
                if sampled and getattr(self.pipe, "_interrupt", False):  # by the user's callback
                    self.passes.reached = math.prod(self.sizes[index - 1]) / math.prod(self.sizes[-1])
                    if not arguments.latents:
                        return self._decoded(arguments, output, grid)
                    return self._as_it_is(arguments, index - 1, form.latents(grid))
                scheduler, output = self._again(arguments, index, grid, done, form)
                if not scheduler.steps and not getattr(self.pipe, "_interrupt", False):
                    raise RekernelError(
                        f"{self._name}: it made no step at {text_of(self.sizes[index])}, so the picture is noisy; "
                        f"check the arguments that end its schedule early, such as denoising_end"
                    )
                if index < len(self.sizes) - 1:
                    grid = form.grid(self._finished(output, scheduler), self.sizes[index])
                    done += scheduler.steps
        return output

    def _check_decoded(self, arguments: Arguments) -> None:
        """Raise where the autoencoder of the pipeline was left out and the call needs it."""
        if not self.latent or self.vae is not None:
            return
        if arguments.start is not None:
            raise RekernelError(f"{self._name} has no VAE to encode the given picture; omit it, or load the VAE")
        if "output_type" in arguments.takes and arguments.given.get("output_type") != "latent":
            raise RekernelError(f"{self._name} has no VAE to decode the result; pass output_type='latent'")

    def _first(self, arguments: Arguments) -> tuple[LateScheduler, Any]:
        """Sample at the first size, from noise, without guidance."""
        made = arguments.at(self.sizes[0], 0, last=False, first=True, latent=self.latent)
        scheduler = LateScheduler(self.pipe.scheduler, None, self._name)
        with self._stage(scheduler, 0, arguments):
            return scheduler, self.pipe(**made)

    def _grid(self, size: Size) -> tuple[int, int]:
        return size[0] // self.cell, size[1] // self.cell

    def _given(self, arguments: Arguments) -> Tensor:
        """The given picture at the size of the first stage that runs, once for each picture that the call makes."""
        if "num_frames" in arguments.takes:
            raise RekernelError(
                f"{self._name} makes videos, which a cascade does not start from a picture; omit image="
            )
        picture, count = as_picture(arguments.start), arguments.count()
        if count % len(picture):
            raise RekernelError(f"{len(picture)} pictures are given to start from, and the call makes {count}")
        weight = next((w for w in self.target.denoiser.parameters() if w.is_floating_point()), torch.empty(0))
        device, dtype = getattr(self.pipe, "_execution_device", weight.device), weight.dtype
        coder, config = self.enlarger.vae, getattr(self.target.network, "config", None)
        picture = with_channels(picture, getattr(config, "in_channels", None) if coder is None else coder.channels)
        made = self.enlarger.of_picture(picture.to(device), self.sizes[1], dtype)
        return made.repeat_interleave(count // len(made), dim=0)  # as pipelines repeat their prompts

    @contextmanager
    def _stage(self, scheduler: LateScheduler, index: int, arguments: Arguments) -> Iterator[None]:
        """The pipeline with the stand-in of its scheduler, at the size of the stage, with a fitting progress bar."""
        size = self.sizes[index]
        parts: dict[str, Any] = {"scheduler": scheduler.stand_in()}
        if hasattr(self.pipe, "progress_bar"):
            config = getattr(self.pipe, "_progress_bar_config", {})
            said = f"stage {index + 1} of {len(self.sizes)}, {text_of(size)}"
            parts["_progress_bar_config"] = {"desc": said, **config}
            parts["progress_bar"] = self._progress(scheduler)
        with (
            exchanged(self.pipe, parts),
            at_sample_size(self.target.network, None if arguments.sized else self._grid(size)),
        ):
            try:
                yield
            finally:
                scheduler.retire()

    def _progress(self, scheduler: LateScheduler) -> Any:
        """The pipeline's progress bar, for the steps that are left."""
        bar = self.pipe.progress_bar

        def progress_bar(iterable: Any = None, total: Any = None) -> Any:
            order = getattr(scheduler.inner, "order", 1)
            return bar(iterable, total if total is None else min(total, -(-len(scheduler.timesteps) // order)))

        return progress_bar

    def _again(
        self, arguments: Arguments, index: int, grid: Tensor, done: int, form: SampleForm
    ) -> tuple[LateScheduler, Any]:
        """Enlarge an image to the size of a stage, add noise and denoise it there."""
        size, last = self.sizes[index], index == len(self.sizes) - 1
        made = arguments.at(size, done, last=last, first=False, latent=self.latent)
        if grid.shape[-2:] != self._grid(size):
            grid = self.enlarger.enlarged(grid, size)
        noise = randn_tensor(grid.shape, generator=arguments.generator, device=grid.device, dtype=grid.dtype)
        scheduler = LateScheduler(self.pipe.scheduler, self.settings.strengths[index - 1], self._name)
        with self._stage(scheduler, index, arguments), ExitStack() as stack:
            self._rehearse(scheduler, made | self._handed(arguments, form.latents(grid)), arguments)
            started = scheduler.noised(grid, noise)
            scheduler.started, scheduler.noise = form.sample(started), form.sample(noise)
            scheduler.substitutes = not arguments.latents
            position = self._position(scheduler)
            self.networks.attach(stack, lambda: self._attachments(index, position))
            if scheduler.substitutes:
                stack.enter_context(self._substituted(scheduler))
            return scheduler, self.pipe(**made | self._handed(arguments, form.latents(started)))

    def _as_it_is(self, arguments: Arguments, index: int, image: Tensor) -> Any:
        """What the pipeline returns for the image of an interrupted stage, at the size of that stage."""
        made = arguments.at(self.sizes[index], 0, last=True, first=False, latent=True)
        scheduler = LateScheduler(self.pipe.scheduler, 0.0, self._name)
        with self._stage(scheduler, index, arguments):
            return self.pipe(**made | {"latents": image})

    def _decoded(self, arguments: Arguments, output: Any, grid: Tensor) -> Any:
        """The same for a pipeline that cannot be given latents: inpainting by a transformer."""
        kind = arguments.given.get("output_type", getattr(arguments.takes.get("output_type"), "default", "pil"))
        coder = self.enlarger.vae
        if coder is None:
            return output
        made = output[0] if kind == "latent" else self.pipe.image_processor.postprocess(coder.pixels(grid), kind)
        return (made,) if arguments.given.get("return_dict") is False else type(output)(**{next(iter(output)): made})

    def _handed(self, arguments: Arguments, image: Tensor) -> dict[str, Tensor]:
        return {"latents": image} if arguments.latents else {}

    def _rehearse(self, scheduler: LateScheduler, made: dict[str, Any], arguments: Arguments) -> None:
        """Call the pipeline up to the point where its timesteps are set."""
        scheduler.rehearses = True
        try:
            with random_state(arguments.generator):
                self.pipe(**made)
        except Prepared:
            scheduler.rehearses = False
        else:
            raise RekernelError(
                f"{self._name}: it never calls set_timesteps() of its scheduler, so it cannot start late"
            )

    def _attachments(self, index: int, position: float) -> list[Any]:
        """Kernels, positions and guidance of a stage that starts at `position` in the schedule, not attached."""
        scale = tuple(n / m for n, m in zip(self.sizes[index], self.sizes[0], strict=True))
        found: list[Any] = []
        if self.settings.kernels is not None:
            found.append(kernels_at(SupersampledKernels, self.settings.kernels, scale, position))
        if self.settings.positions is not None:
            found.append(at_scale(RescaledPositions, self.settings.positions, scale))
        if self.settings.guidance is not None:
            found.append(guidance_at(UpsampleGuidance, self.settings.guidance, scale, position, self.networks.eta))
        return found

    def _position(self, scheduler: LateScheduler) -> float:
        """Where in the schedule the stage starts: 1 is pure noise."""
        guidance, kernels = self.settings.guidance, self.settings.kernels
        if guidance is None and (kernels is None or not kernels.timed):
            return 1.0
        told = (None, None) if guidance is None else (guidance.schedule, guidance.prediction)
        schedule, _ = self.target.schedule(*told)
        if isinstance(schedule, FlowSchedule):  # the network's unit of time may differ from the scheduler's
            found = scheduler.noise_share
        else:
            found = float(schedule.fraction(scheduler.first_time))
        return min(1.0, max(0.0, found))

    @contextmanager
    def _substituted(self, scheduler: LateScheduler) -> Iterator[None]:
        """Show the network the start instead of the noise that the pipeline drew, until the first step is made."""
        network: nn.Module = self.target.denoiser
        if getattr(self.pipe, "controlnet", None) is not None:
            raise RekernelError(
                f"{self._name}: its ControlNet cannot be shown the noisy image that a stage starts from"
            )

        caller = current_caller()

        def shown(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            start = scheduler.started
            if scheduler.steps or start is None or current_caller() is not caller:
                return None
            name = next((name for name in IMAGES if name in kwargs), None)
            image = args[0] if name is None else kwargs[name]
            start = repeated(start, len(image))
            if hasattr(scheduler.inner, "scale_model_input"):
                start = scheduler.inner.scale_model_input(start, scheduler.timesteps[0])
            axis = -1 if start.ndim == 3 else 1
            known = image.narrow(axis, start.shape[axis], image.shape[axis] - start.shape[axis])  # a mask, for example
            made = torch.cat([start.to(image), known], dim=axis)
            return ((made, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: made})

        handle = network.register_forward_pre_hook(shown, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _finished(self, output: Any, scheduler: LateScheduler) -> Tensor:
        """The sample of a stage: what the pipeline returned in latent space, or else what its last step made."""
        stepped: Any = scheduler.result
        if not isinstance(stepped, Tensor):
            raise RekernelError(f"{self._name}: it made no step of its scheduler, so there is no sample to enlarge")
        first = output[0]
        kept = self.latent or isinstance(self.pipe, Denoising)  # pipelines of pixels return pictures in [0, 1]
        if isinstance(first, Tensor) and kept and first.shape == stepped.shape:
            return first
        return stepped[: len(first)]


__all__ = ["Run"]
