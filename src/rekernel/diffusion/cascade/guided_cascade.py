"""Sample above the trained size in stages, each one guided and started from the stage before.

Scope: the public class. Not here: the sizes (see `sizes`), the settings (see `settings`), the work (see `running`).
Source: ours (docs/guidance.md, "Cascades"); a stage without guidance is what image tools call a "hires fix", and what
diffusers' img2img pipelines do (SDEdit, arXiv 2108.01073).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import RekernelError
from ..guidance.settings import GuidanceSettings
from ..kernels.settings import KernelSettings
from ..picture_decoder import autoencoder_of, samples_latents
from ..positions.settings import PositionSettings
from ..sampler_settings import SamplerSettings
from .settings import LATENT, STRENGTH, Enlarge, settings_of
from .sizes import geometry_of, stage_sizes, text_of

if TYPE_CHECKING:
    from .networks import Networks
    from .running import Run


class GuidedCascade:
    """Sample at the trained size, then enlarge the sample, add noise and denoise it at the next size, with guidance.

    The first stage is the pipeline as it is. Each further stage runs the last steps of the schedule at its own size,
    guided against the trained size.

    Parameters
    ----------
    pipe : a diffusers pipeline that makes pictures or videos
        Or any object with a `unet` or `transformer`, a `scheduler` and a call that takes `num_inference_steps`,
        `latents`, `height` and `width`; or a network or function `denoise(x, t)`, together with `scheduler`.
    sizes : sequence of sizes, optional
        Pixels of each stage, the trained size first: numbers, (height, width), or '1024x768' (width first).
    scale : number, or (height, width), optional
        Instead of `sizes`: the last size over the trained size; each stage doubles the size.
    strength : float, or one per stage after the first
        Share of the schedule that a stage runs: it makes steps * strength steps, rounded up for flow-matching
        schedulers and down for others, like diffusers' img2img pipelines.
    guidance : UpsampleGuidance, or a mapping of its options; None or False
        None is the recommended guidance of this kind of pipeline, False turns guidance off. `scale` is that of each
        stage, and `eta` counts in the part of the schedule that a stage runs.
    kernels : SupersampledKernels, or a mapping of its options, optional
        Kernels rescaled in each stage after the first; `until` counts in the part of the schedule that a stage runs.
    positions : RescaledPositions, or a mapping of its options, optional
        Positions of a transformer rescaled in each stage after the first.
    enlarge : {'pixels', 'latent'} or callable, optional
        How a sample is enlarged: bicubically in pixels, through the VAE (the default), or in latent space. A callable
        gets pixels in [0, 1], (B, 3, H, W), and returns larger ones, which are brought to the size of the stage. A
        pipeline of pixels has no VAE, and both words mean the same.
    scheduler : a diffusers scheduler, for a network or function alone

    Attributes
    ----------
    sizes : (height, width) of each stage
    passes : passes of the network in the last call, those of guidance too, in units of a pass at the last size

    Notes
    -----
    Other threads may sample with the same network meanwhile, through pipelines of their own, and are not guided. Two
    cascades of one network run one after the other.

    Raises
    ------
    RekernelError
        For sizes, strengths or options that cannot be, and a pipeline that cannot start from a picture.

    Examples
    --------
    >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    >>> net = UNet2DModel(8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
    ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    >>> pipe = DDIMPipeline(net, DDIMScheduler())
    >>> pipe.set_progress_bar_config(disable=True)
    >>> cascade = GuidedCascade(pipe, scale=2, strength=0.5)
    >>> cascade
    GuidedCascade(DDIMPipeline, 8x8 -> 16x16 at 0.5, guided)
    >>> cascade(num_inference_steps=4).images[0].size, cascade.passes
    ((16, 16), 3.5)
    """

    def __init__(
        self,
        pipe: Any,
        sizes: Sequence[Any] | None = None,
        *,
        scale: float | Sequence[float] | None = None,
        strength: float | Sequence[float] = STRENGTH,
        guidance: GuidanceSettings | Mapping[str, Any] | bool | None = None,
        kernels: KernelSettings | Mapping[str, Any] | None = None,
        positions: PositionSettings | Mapping[str, Any] | None = None,
        enlarge: Enlarge = None,
        scheduler: Any = None,
    ) -> None:
        from .arguments import check_shapes, check_starts_from_noise
        from .loop import as_pipeline
        from .networks import Networks

        if isinstance(pipe, type):
            raise RekernelError(
                f"{pipe.__name__} is a class; pass a pipeline, such as {pipe.__name__}.from_pretrained(...)"
            )
        self.pipe = as_pipeline(pipe, scheduler)
        check_starts_from_noise(self.pipe)
        networks = Networks(self.pipe)
        target = networks.main
        self._geometry = geometry_of(self.pipe, target.network, target.usual if not target.latent else target.trained)
        name = type(self.pipe).__name__
        self.sizes = stage_sizes(sizes, scale, self._geometry, name)
        check_shapes(self.pipe, target.network, self.sizes)
        self.settings = settings_of(strength, len(self.sizes) - 1, guidance, kernels, positions, enlarge)
        if samples_latents(self.pipe) and autoencoder_of(self.pipe) is None and enlarge != LATENT:
            raise RekernelError(f"{name} has no VAE to enlarge pictures with; pass enlarge='latent', or load the VAE")
        self.passes = 0.0
        if self.settings.guidance is not None:
            target.schedule(self.settings.guidance.schedule, self.settings.guidance.prediction)  # validate eagerly
        if networks.attached is None:  # else the call says that it must be removed
            with networks.alone():
                self._run(networks).check()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Sample: the arguments of the pipeline's own call, except for height and width.

        Parameters
        ----------
        *args, **kwargs
            Passed on in every stage; `latents` in the first one only. Two have a meaning of their own.
            `image` is a PIL image, array or tensor to start from, of the shape of the stages. It is resized to the
            second size, and the first stage is left out. Where the pipeline itself takes an `image` (a ControlNet,
            inpainting), the picture to start from is `start`. `callback_on_step_end` is as in the pipeline; its step
            counts on through the stages.

        Returns
        -------
        what the pipeline returns, at the last size

        Raises
        ------
        RekernelError
            For a size or an argument of the cascade itself, where the pipeline cannot start from a picture, and where
            guidance, kernels or positions are attached to its network already.
        """
        from .arguments import Arguments
        from .networks import Networks

        arguments, networks = Arguments(self.pipe, args, kwargs), Networks(self.pipe)
        run = self._run(networks)
        output = run.result(arguments)
        self.passes = run.passes.full
        return output

    def _run(self, networks: Networks) -> Run:
        from .running import Run

        return Run(self.pipe, networks, self.sizes, self._geometry.cell, self.settings)

    def __repr__(self) -> str:
        stages = zip(self.sizes[1:], self.settings.strengths, strict=True)
        said = " -> ".join([text_of(self.sizes[0]), *(f"{text_of(size)} at {s:g}" for size, s in stages)])
        guided = "not guided" if self.settings.guidance is None else _told("guided", self.settings.guidance)
        kernels = "" if self.settings.kernels is None else _told(", kernels rescaled", self.settings.kernels)
        positions = "" if self.settings.positions is None else _told(", positions rescaled", self.settings.positions)
        return f"GuidedCascade({type(self.pipe).__name__}, {said}, {guided}{kernels}{positions})"


def _told(what: str, settings: SamplerSettings) -> str:
    """What acts, and its settings where they are not the defaults; the scale is that of each stage."""
    given = {name: value for name, value in settings.given().items() if name != "scale"}
    each = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}" for name, value in given.items())
    return f"{what} ({', '.join(each)})" if given else what


__all__ = ["GuidedCascade"]
