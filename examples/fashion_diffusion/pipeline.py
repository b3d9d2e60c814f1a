"""Sample the fashion diffusion model, as a diffusers pipeline: kinds of clothes asked for, pictures out.

Scope: one UNet and one scheduler. Not here: training (see `train`) and measuring (see `measure`). Imports torch and
diffusers alone, because diffusers copies this file into its own module cache when the folder is loaded. For the same
reason the code is that of examples/glyph_diffusion again, under another name; a test compares the two.
"""

import inspect
from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor


class FashionPipeline(DiffusionPipeline):
    """Class-conditional sampling; the last class of the UNet is "any kind", for classifier-free guidance.

    Parameters
    ----------
    unet : UNet2DModel
        Predicts what the scheduler's `prediction_type` says, from (B, 1, H, W), a time and (B,) labels.
    scheduler : SchedulerMixin
        Any diffusers scheduler that reads the folder's scheduler_config.json.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

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
    ) -> ImagePipelineOutput:
        """One picture for each label.

        Parameters
        ----------
        class_labels : int or sequence of int
            The classes of Fashion-MNIST asked for, 0 to 9; 10 asks for any of them.
        height, width : int, optional
            Pixels, multiples of 4; the trained size, 16, where left out.
        guidance_scale : float
            Scale of classifier-free guidance. 1 turns it off and halves the work. With larger values pictures follow
            the label more strictly and vary less.
        output_type : {'pil', 'np', 'pt'}
            'pil' a list of grey images, 'np' (N, H, W, 1) and 'pt' (N, 1, H, W), both in [0, 1].
        latents : (N, 1, H, W) tensor, optional
            The noise to start from, of unit variance; drawn with `generator` where left out.

        Raises
        ------
        ValueError
            For a side that is not a multiple of 4, a label the UNet has no class for, an unknown `output_type`, or
            `latents` of another shape.
        """
        labels = self._labels(class_labels)
        shape = self._shape(len(labels), height, width)
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type={output_type!r} is not one of 'pil', 'np', 'pt'.")
        if latents is None:
            latents = randn_tensor(shape, generator, self._execution_device, self.unet.dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents have the shape {tuple(latents.shape)}, but {shape} was asked for.")

        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        x = latents.to(self._execution_device, self.unet.dtype) * self.scheduler.init_noise_sigma
        extra = self._step_options(generator)
        for t in self.progress_bar(self.scheduler.timesteps):
            predicted = self._predict(self.scheduler.scale_model_input(x, t), t, labels, guidance_scale)
            x = self.scheduler.step(predicted, t, x, **extra).prev_sample
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=self._pictures(x, output_type))

    def _predict(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        if guidance_scale == 1:
            return self.unet(x, t, class_labels=labels).sample
        anything = torch.full_like(labels, self.unet.config.num_class_embeds - 1)
        # The half without a label first, as diffusers' own pipelines have it.
        both = self.unet(torch.cat([x, x]), t, class_labels=torch.cat([anything, labels])).sample
        free, asked = both.chunk(2)
        return free + guidance_scale * (asked - free)

    def _labels(self, class_labels: int | Sequence[int] | torch.Tensor) -> torch.Tensor:
        labels = torch.as_tensor(class_labels, dtype=torch.long, device=self._execution_device).reshape(-1)
        classes = self.unet.config.num_class_embeds
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"class_labels={labels.tolist()}: pass one or more numbers from 0 to {classes - 1}.")
        return labels

    def _shape(self, count: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        config = self.unet.config
        height, width = height or config.sample_size, width or config.sample_size
        step = 2 ** (len(config.block_out_channels) - 1)
        if height % step or width % step:
            raise ValueError(f"height={height} and width={width} must be multiples of {step}.")
        return count, config.in_channels, height, width

    def _step_options(self, generator: torch.Generator | list[torch.Generator] | None) -> dict[str, object]:
        """`generator` for schedulers that draw noise; for DDIM, the noise that belongs to the clipped picture."""
        known = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator, "use_clipped_model_output": True}
        return {name: value for name, value in options.items() if name in known}

    def _pictures(self, x: torch.Tensor, output_type: str) -> object:
        x = (x.float() / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return x
        pictures = x.permute(0, 2, 3, 1).cpu().numpy()
        return self.numpy_to_pil(pictures) if output_type == "pil" else pictures
