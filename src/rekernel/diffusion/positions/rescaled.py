"""Attach rescaled positions to a transformer of diffusers.

Scope: the public class. Not here: checks of the settings (see `settings`), the hook on the network (see `hook`), the
formulas (see `frequencies`).
"""

from __future__ import annotations

from typing import Any

from ..denoiser.attachable import Attachable
from .settings import PositionSettings


class RescaledPositions(PositionSettings, Attachable):
    """Run a transformer above its trained size with positions and attention rescaled to that size.

    A transformer has no kernels to rescale: above its trained size it meets positions that it has not seen, and its
    attention spreads over more tokens. Calls at the trained size, such as the low-resolution pass of upsample guidance,
    run unchanged. Calls at sizes in between, the nested levels of guidance, run with positions rescaled to that size.

    Parameters
    ----------
    scale : number, one per grid axis, or 'auto'
        Requested size over trained size, as for `UpsampleGuidance`.
    method : {'interpolate', 'ntk', 'yarn', 'dype'}
        'interpolate' divides the positions by the scale. 'ntk' changes the base of the frequencies: the fastest one
        stays, the slowest is interpolated. 'yarn' interpolates the frequencies that turn less than once over the
        trained size. 'dype' is 'yarn' at pure noise and moves towards the trained frequencies at the clean end
        (arXiv 2510.20766; its authors say that a patent is pending). The table of Stable Diffusion 3 knows
        'interpolate' alone.
    temperature : bool or float
        Multiply the logits of attention by (log n / log n_trained)^temperature, for n image tokens. False leaves them;
        0.5 is the factor of arXiv 2306.08645. All logits of an attention over image tokens are multiplied, those of its
        text tokens too; attention over text alone, and of image tokens to a text beside them, is unchanged. With
        guidance, 'yarn' without temperature (False) was the best choice measured (docs/guidance.md).
    schedule : NoiseSchedule, optional
        Noise schedule of the network, for 'dype'; read from the pipeline's scheduler by default.

    Notes
    -----
    For Flux, Flux 2, Qwen-Image, Z-Image, Lumina 2, Stable Diffusion 3, Wan, HunyuanVideo, CogVideoX with rotary
    positions, and LTX-Video. Experimental, as are all transformers: measured on one small Flux (docs/guidance.md), and
    else tested in diffusers with random weights.

    Examples
    --------
    >>> RescaledPositions(2, "yarn", temperature=False)
    RescaledPositions(scale=2, method='yarn', temperature=0; not attached)
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        Attachable.__init__(self)

    @property
    def slot(self) -> str:
        """The name under which a pipeline's `rekernel` lists this."""
        return self._what

    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        from .hook import PositionedDenoiser

        return PositionedDenoiser(self, target, scheduler, self._is_enabled)

    def __repr__(self) -> str:
        return f"RescaledPositions({self._described()}; {self._where()})"


__all__ = ["RescaledPositions"]
