"""Sample the glyph transformer, as a diffusers pipeline: digits asked for, pictures out.

Scope: one Flux transformer and one flow-matching scheduler. Not here: training (see `train`) and measuring (see
`measure`). Imports NumPy, torch and diffusers alone, because diffusers copies this file into its own module cache when
the folder is loaded.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel, ImagePipelineOutput, SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor

PATCH = 2  # pixels of a token, along each side


def packed(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) to tokens (B, H W / 4, 4 C), row by row: as Flux packs its latents."""
    batch, channels, height, width = images.shape
    blocks = images.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH**2)


def unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `packed`, for pictures of `height` times `width` pixels."""
    batch, _, depth = tokens.shape
    blocks = tokens.reshape(batch, height // PATCH, width // PATCH, depth // PATCH**2, PATCH, PATCH)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, height, width)


def positions(rows: int, columns: int) -> torch.Tensor:
    """Each token's (0, row, column), float32 of the shape (rows columns, 3)."""
    axes = [torch.zeros(1), torch.arange(rows, dtype=torch.float32), torch.arange(columns, dtype=torch.float32)]
    return torch.cartesian_prod(*axes)


class GlyphTransformerPipeline(DiffusionPipeline):
    """Class-conditional sampling; the transformer's last class is "any digit", for classifier-free guidance.

    Parameters
    ----------
    transformer : FluxTransformer2DModel
        Predicts the velocity noise - image from (B, H W / 4, 4) tokens and a time from 0 (image) to 1 (noise). The
        class is one text token and the pooled text, both a one-hot vector.
    scheduler : SchedulerMixin
        A flow-matching scheduler of diffusers, for example FlowMatchEulerDiscreteScheduler.
    sample_size : int
        Pixels of a side in training.
    """

    model_cpu_offload_seq = "transformer"
    _callback_tensor_inputs = ("latents",)

    def __init__(self, transformer: FluxTransformer2DModel, scheduler: SchedulerMixin, sample_size: int = 16) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.register_to_config(sample_size=sample_size)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | torch.Tensor,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        latents: torch.Tensor | None = None,
        sigmas: Sequence[float] | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput:
        """One picture for each label.

        Parameters
        ----------
        class_labels : int or sequence of int
            The digits asked for; 10 asks for any digit.
        height, width : int, optional
            Pixels, even numbers; the trained size, 16, where left out.
        guidance_scale : float
            Scale of classifier-free guidance. 1 turns it off and halves the work. With larger values pictures follow
            the label more strictly and vary less.
        output_type : {'pil', 'np', 'pt'}
            'pil' a list of grey images, 'np' (N, H, W, 1) and 'pt' (N, 1, H, W), both in [0, 1].
        latents : (N, 1, H, W) tensor, optional
            What sampling starts from: noise of unit variance, or a noisy picture of the first of `sigmas`. Noise drawn
            with `generator` where left out.
        sigmas : sequence of float, optional
            Times to sample at, from 1 (noise) down, in place of `num_inference_steps` evenly spaced ones.
        callback_on_step_end : callable, optional
            Called after each step with the pipeline, the step's number, its time and a dictionary of the tensors that
            `callback_on_step_end_tensor_inputs` names ("latents" alone); may return others in a dictionary. It may set
            the pipeline's `_interrupt` and `_guidance_scale`, as with diffusers' own pipelines.

        Raises
        ------
        ValueError
            For an odd side, a label the transformer has no class for, an unknown `output_type` or tensor, `sigmas` that
            the scheduler does not take, or `latents` of another shape.
        """
        labels = self._labels(class_labels)
        shape = self._shape(len(labels), height, width)
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type={output_type!r} is not one of 'pil', 'np', 'pt'.")
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(f"callback_on_step_end_tensor_inputs: {unknown} is not among ['latents'].")
        if latents is None:
            latents = randn_tensor(shape, generator, self._execution_device, self.transformer.dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents have the shape {tuple(latents.shape)}, but {shape} was asked for.")

        self._set_times(num_inference_steps, sigmas)
        self._guidance_scale, self._interrupt = guidance_scale, False
        x = latents.to(self._execution_device, self.transformer.dtype)
        extra = {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self._interrupt:
                continue
            x = self.scheduler.step(self._predict(x, t, labels, self._guidance_scale), t, x, **extra).prev_sample
            if callback_on_step_end is not None:
                tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, x)
                x = (callback_on_step_end(self, i, t, tensors) or {}).pop("latents", x)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=self._pictures(x, output_type))

    @property
    def guidance_scale(self) -> float:
        """Scale of classifier-free guidance; a callback may set `_guidance_scale` for the steps that remain."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the current call."""
        return len(self.scheduler.timesteps)

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are skipped; a callback may set `_interrupt`."""
        return self._interrupt

    def _predict(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        if guidance_scale == 1:
            return self._velocity(x, t, labels)
        anything = torch.full_like(labels, self._classes - 1)
        # The half without a label first, as diffusers' own pipelines have it.
        both = self._velocity(torch.cat([x, x]), t, torch.cat([anything, labels]))
        free, asked = both.chunk(2)
        return free + guidance_scale * (asked - free)

    def _velocity(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        *_, height, width = x.shape
        text = torch.nn.functional.one_hot(labels, self._classes).to(x.dtype)
        tokens = self.transformer(
            hidden_states=packed(x),
            encoder_hidden_states=text[:, None],
            pooled_projections=text,
            timestep=(t / self.scheduler.config.num_train_timesteps).expand(len(x)),
            img_ids=positions(height // PATCH, width // PATCH).to(x.device),
            txt_ids=torch.zeros(1, 3, device=x.device),
            return_dict=False,
        )[0]
        return unpacked(tokens, height, width)

    @property
    def _classes(self) -> int:
        return self.transformer.config.pooled_projection_dim

    def _labels(self, class_labels: int | Sequence[int] | torch.Tensor) -> torch.Tensor:
        labels = torch.as_tensor(class_labels, dtype=torch.long, device=self._execution_device).reshape(-1)
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= self._classes:
            raise ValueError(f"class_labels={labels.tolist()}: pass one or more numbers from 0 to {self._classes - 1}.")
        return labels

    def _shape(self, count: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        height, width = height or self.config.sample_size, width or self.config.sample_size
        if height % PATCH or width % PATCH:
            raise ValueError(f"height={height} and width={width} must be multiples of {PATCH}.")
        return count, self.transformer.config.in_channels // PATCH**2, height, width

    def _set_times(self, count: int, sigmas: Sequence[float] | None) -> None:
        """Evenly spaced from 1 to 1/count, as in diffusers' Flux pipelines; a scheduler's own where it takes none."""
        device = self._execution_device
        if "sigmas" in inspect.signature(self.scheduler.set_timesteps).parameters:
            chosen = np.linspace(1, 1 / count, count) if sigmas is None else np.asarray(sigmas, np.float64)
            self.scheduler.set_timesteps(sigmas=chosen, device=device)
        elif sigmas is None:
            self.scheduler.set_timesteps(count, device=device)
        else:
            raise ValueError(f"{type(self.scheduler).__name__} takes no sigmas; pass num_inference_steps.")

    def _pictures(self, x: torch.Tensor, output_type: str) -> object:
        x = (x.float() / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return x
        pictures = x.permute(0, 2, 3, 1).cpu().numpy()
        return self.numpy_to_pil(pictures) if output_type == "pil" else pictures
