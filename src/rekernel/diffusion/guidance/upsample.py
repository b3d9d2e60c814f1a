"""Upsample guidance attached to a diffusers pipeline.

Scope: settings that can be attached. Not here: their checks (see `guidance_settings`), the hook on the network (see
`attached`), the formulas (see `guided`).
Source: arXiv 2404.01709; nested levels and the rescaled network as predictor are ours (docs/guidance.md).
"""

from __future__ import annotations

from typing import Any

from ..denoiser.attachable import Attachable
from .settings import GuidanceSettings


class UpsampleGuidance(GuidanceSettings, Attachable):
    """Guide sampling above the trained size by what the network sees at its trained size.

    In every step in which it acts, the noisy image is also reduced, denoised at the time at which the network knows so
    much noise, and the difference added to the low band of the full-size prediction. One more pass on fewer pixels.

    Parameters
    ----------
    scale : number, one per grid axis, or 'auto'
        Requested size over trained size; a number counts for height and width. 'auto' reads both at each call
        (`scales.enlargement` has the rule), and does nothing at the trained size, nor at another shape of its area. For
        a video, three numbers: frames, height, width.
    theta : float, optional
        Weight; 1 replaces the low band, 0 does nothing. By default 1, and 1.5 for pipelines of pixels (measured:
        docs/guidance.md).
    eta : float, optional
        Share of the schedule, from the noisy end, in which it acts. By default 1, and 0.6 for pipelines with a VAE.
    start, stop : float, optional
        Instead of `eta`: the noisiest and the cleanest time to act at, in the unit that the network is fed.
    log_snr : (lowest, highest), optional
        Instead, or beside it: the range of log-SNR to act in.
    schedule : NoiseSchedule, optional
        Read from the pipeline's scheduler by default.
    prediction : str, optional
        What the network predicts, one of `predictions.KINDS`; read from the scheduler by default.
    levels : int, optional
        Nested levels; by default one per octave (above 2: the network at twice its size, itself guided, guides that at
        four times). 1 is a single step of any factor.
    reduce, enlarge : str
        The operators: 'area', 'linear', 'cubic' or 'lanczos3'; 'nearest' (as published), 'linear' or 'cubic', all with
        DU = 1. By default 'area' and 'nearest', and 'cubic' for pipelines of pixels (measured, as theta).
    predictor : {'reduced', 'rescaled'}
        Who predicts the low band: the network on the reduced image, or (ours) the network with every kernel rescaled,
        on the full-size image at the matched time, which has no blocks and no levels.

    Notes
    -----
    Transformers (Stable Diffusion 3, Flux, PixArt, Sana, Wan, HunyuanVideo, CogVideoX without rotary positions) are
    experimental: they were run with random weights alone, and the repr says so once attached.

    Examples
    --------
    >>> UpsampleGuidance(scale=2, theta=1.0, eta=0.6)
    UpsampleGuidance(scale=2, theta=1, eta=0.6; not attached)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        Attachable.__init__(self)

    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        from .hook import GuidedDenoiser

        return GuidedDenoiser(self, target, scheduler, self._is_enabled)

    def __repr__(self) -> str:
        return f"UpsampleGuidance({self._described()}; {self._where()})"


__all__ = ["UpsampleGuidance"]
