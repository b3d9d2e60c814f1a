"""Attach upsample guidance to a diffusers pipeline.

Scope: the public class. Not here: checks of the settings (see `settings`), the hook on the network (see `hook`), the
formulas (see `formulas/guided`).
Source: arXiv 2404.01709; nested levels and the rescaled network as predictor are ours (docs/guidance.md).
"""

from __future__ import annotations

from typing import Any

from ..denoiser.attachable import Attachable
from .settings import GuidanceSettings


class UpsampleGuidance(GuidanceSettings, Attachable):
    """Guide sampling above the trained size by a second pass of the network at its trained size.

    In every step in which guidance acts, the noisy image is also reduced to the trained size and denoised there, at the
    time whose noise matches the reduced image. The low band of the full-size prediction is then moved towards this
    result. Each such step costs one more pass, on fewer pixels.

    Parameters
    ----------
    scale : number, one per grid axis, or 'auto'
        Requested size over trained size; a number applies to height and width. A video has three numbers: frames,
        height, width. 'auto' computes the scale at each call from both sizes (see `formulas.sizes.enlargement`); it is
        1, and guidance does nothing, at the trained size and at other shapes of the trained area. A call that is no
        larger than the trained size, or not by as much as a number says, warns once; no pass is below the trained size.
    theta : float, optional
        Weight of guidance: 0 does nothing, 1 replaces the low band. The default is 1, and 1.5 for pipelines of pixels
        (measured: docs/guidance.md).
    eta : float, optional
        Share of the schedule, from the noisy end, in which guidance acts. The default is 1, and 0.6 for pipelines with
        a VAE. Where a network is attached without its pipeline and may make pixels or latents, a warning says what is
        taken.
    start, stop : float, optional
        Instead of `eta`: the noisiest and the cleanest time at which guidance acts, in the unit of the network's time.
    log_snr : (lowest, highest), optional
        Instead of `eta`, or in addition: the range of log-SNR in which guidance acts.
    schedule : NoiseSchedule, optional
        Noise schedule of the network; read from the pipeline's scheduler by default.
    prediction : str, optional
        What the network predicts, one of `predictions.KINDS`; read from the scheduler by default.
    levels : int, optional
        Number of nested levels; by default one per octave. At a scale of 4, the network at twice its trained size,
        itself guided, guides the network at four times its trained size. 1 is a single step of any factor.
    reduce : {'area', 'linear', 'cubic', 'lanczos3'}
        The operator D, which reduces.
    enlarge : {'nearest', 'linear', 'cubic'}, optional
        The operator U, which enlarges, with DU = 1. The default is 'nearest' (as published), and 'cubic' for pipelines
        of pixels (measured: docs/guidance.md).
    predictor : {'reduced', 'rescaled'}
        Which network predicts the low band: 'reduced' is the network on the reduced image. 'rescaled' (ours) is the
        network with every kernel rescaled, on the full-size image at the matched time; it has no blocks and no levels.

    Notes
    -----
    Transformers (Stable Diffusion 3, Flux, Flux 2, Qwen-Image, Z-Image, Lumina 2, PixArt, DiT, Sana, Wan, HunyuanVideo,
    CogVideoX, LTX-Video, Mochi) are experimental: one small Flux was measured, and all others were only tested with
    random weights. The repr of attached guidance says so.

    Several threads may call one network: its calls take turns, and each gets what it gets alone. A scheduler keeps the
    step that it is at, so give each thread a pipeline of its own around the shared network. Attach before the threads
    start: attaching and removing wait for a running call with hooks, but not for one that began without them.

    Examples
    --------
    >>> UpsampleGuidance(scale=2, theta=1.0, eta=0.6)
    UpsampleGuidance(scale=2, theta=1, eta=0.6; not attached)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        Attachable.__init__(self)

    @property
    def slot(self) -> str:
        """The name under which a pipeline's `rekernel` lists this."""
        return self._what

    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        from .hook import GuidedDenoiser

        return GuidedDenoiser(self, target, scheduler, self._is_enabled)

    def __repr__(self) -> str:
        return f"UpsampleGuidance({self._described()}; {self._where()})"


__all__ = ["UpsampleGuidance"]
