"""Rescaled kernels attached to a diffusers pipeline: switched on by time, per layer, without a second copy of weights.

Scope: settings that can be attached. Not here: their checks (see `kernel_settings`), the hook on the network (see
`switched`), the layers (see `bank`). Noise-damped guidance and shrinking scales follow ScaleCrafter's sampler
(arXiv 2310.07702); kernels other than dilated ones are arXiv 2605.08698's subject, their design ours.
"""

from __future__ import annotations

from typing import Any

from ..denoiser.attachable import Attachable
from .settings import KernelSettings


class SupersampledKernels(KernelSettings, Attachable):
    """Run a denoiser above its trained size with kernels rescaled to that size.

    Calls at the trained size (the low-resolution pass of upsample guidance) run with the original kernels, calls in
    between (its nested levels) with kernels of their own scale.

    Parameters
    ----------
    scale : number, one per grid axis, or 'auto'
        Requested size over trained size, as for `UpsampleGuidance`.
    layers : str or sequence of patterns
        'inner' (everything below the finest level), 'all', or patterns on parameter names.
    method : str, or {scale: str or None}
        As for `rekernel.torch.rescale`; 'dilate' is ScaleCrafter's kernel. A mapping gives each nested scale its own;
        None, or a scale that is not named, leaves the kernels as they are.
    until : float, or {pattern: float}
        Share of the schedule, from the noisy end, in which kernels are rescaled; by layer where a mapping is given
        (its first match counts, and a layer without one is rescaled throughout).
    progressive : bool
        Shrink the scale over that share, step by step down to 2, as ScaleCrafter does.
    noise_damped : bool
        Take the negative half of a classifier-free batch from the original kernels and only the difference between
        the halves from the rescaled ones. Costs one more pass.
    form : {'factored', 'dense', 'auto'}
        'factored' has no second copy of the weights; broken scales are dense in any case.
    schedule : NoiseSchedule, optional
        Read from the pipeline's scheduler by default.

    Examples
    --------
    >>> SupersampledKernels(2, until=0.7)
    SupersampledKernels(scale=2, layers='inner', method='optimal', until=0.7; not attached)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        Attachable.__init__(self)

    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        from .hook import SwitchedDenoiser

        return SwitchedDenoiser(self, target, scheduler, self._is_enabled)

    def __repr__(self) -> str:
        return f"SupersampledKernels({self._described()}; {self._where()})"


__all__ = ["SupersampledKernels"]
