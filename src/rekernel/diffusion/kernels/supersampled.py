"""Attach rescaled kernels to a diffusers pipeline; they can depend on time and layer and need no copy of the weights.

Scope: the public class. Not here: checks of the settings (see `settings`), the hook on the network (see `hook`), the
layers (see `denoiser/substitutes`). Noise-damped guidance and shrinking scales follow ScaleCrafter's sampler
(arXiv 2310.07702). Interpolated kernels are from arXiv 2605.08698; the design of 'optimal' kernels is ours.
"""

from __future__ import annotations

from typing import Any

from ..denoiser.attachable import Attachable
from .settings import KernelSettings


class SupersampledKernels(KernelSettings, Attachable):
    """Run a denoiser above its trained size with kernels rescaled to that size.

    Calls at the trained size, such as the low-resolution pass of upsample guidance, run with the original kernels.
    Calls at sizes in between, the nested levels of guidance, run with kernels rescaled to that size.

    Parameters
    ----------
    scale : number, one per grid axis, or 'auto'
        Requested size over trained size, as for `UpsampleGuidance`.
    layers : str or sequence of patterns
        'inner' (everything below the finest level), 'all', or patterns on parameter names.
    method : str, or {scale: str or None}
        As for `rekernel.torch.rescale`; 'dilate' is ScaleCrafter's kernel. A mapping gives each nested scale its own
        method; at a scale that is missing or has None, kernels are not rescaled.
    until : float, or {pattern: float}
        Share of the schedule, from the noisy end, in which kernels are rescaled. A mapping gives a share for each
        pattern on parameter names: the first match counts, and a layer without a match is rescaled throughout.
    progressive : bool
        Shrink the scale over the share `until`, step by step down to 2, as ScaleCrafter does.
    noise_damped : bool
        Take the negative half of a classifier-free batch from the original kernels and only the difference between
        the halves from the rescaled kernels. Costs one more pass.
    form : {'factored', 'dense', 'auto'}
        'factored' needs no copy of the weights; at non-integer scales the form is always dense.
    schedule : NoiseSchedule, optional
        Noise schedule of the network; read from the pipeline's scheduler by default.

    Notes
    -----
    Several threads may call one network: its calls take turns, and each gets what it gets alone. A scheduler keeps the
    step that it is at, so give each thread a pipeline of its own around the shared network. Attach before the threads
    start: attaching and removing wait for a running call with hooks, but not for one that began without them.

    Examples
    --------
    >>> SupersampledKernels(2, until=0.7)
    SupersampledKernels(scale=2, layers='inner', method='optimal', until=0.7; not attached)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        Attachable.__init__(self)

    @property
    def slot(self) -> str:
        """The name under which a pipeline's `rekernel` lists this."""
        return self._what

    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        from .hook import SwitchedDenoiser

        return SwitchedDenoiser(self, target, scheduler, self._is_enabled)

    def __repr__(self) -> str:
        return f"SupersampledKernels({self._described()}; {self._where()})"


__all__ = ["SupersampledKernels"]
