"""Turn the scale or size that a caller asked for into a scale per axis of a traced model, and refuse impossible sizes.

Scope: numbers. Not here: a size that was typed as a scale (see `planning.asked_scale`), and the limits of any scale
(see `planning.allowed_values`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import RekernelError
from ..planning.asked_scale import parsed_size, ratio
from ..text import dims
from .tracing.run import Trace

PICTURE = 4
"""A latent network is not asked for more than this many times its trained size: such a size is that of a picture."""
REDUCES = 8
"""Pixels per latent of the autoencoders of Stable Diffusion, SDXL, SD3 and FLUX."""


def from_size(size: Any, seen: Trace) -> tuple[float, ...]:
    """The scale per axis from the size of the example input to another."""
    new = parsed_size(size)
    if len(new) == 1 and len(set(seen.size)) > 1:
        raise RekernelError(f"size={size}: the example input has {dims(seen.size)} pixels; give one size for each axis")
    if len(new) not in (1, len(seen.size)):
        raise RekernelError(
            f"size={size} has {len(new)} entries for the {len(seen.size)} spatial axes of the example input"
        )
    found = ratio(new, seen.size)
    return tuple(map(float, found)) if isinstance(found, Sequence) else (float(found),) * len(seen.size)


def per_axis(scale: float | Sequence[float], seen: Trace) -> tuple[float, ...]:
    """The scale per axis from one number or several."""
    dims = len(seen.size)
    if isinstance(scale, str) or not isinstance(scale, Sequence):
        try:
            if isinstance(scale, str):
                raise TypeError
            return (float(scale),) * dims
        except (TypeError, ValueError):
            raise RekernelError(f"scale={scale!r} must be a number above 0, or one per spatial axis") from None
    if len(scale) != dims:
        raise RekernelError(
            f"scale={tuple(scale)} has {len(scale)} entries for the {dims} spatial axes of the example input"
        )
    return tuple(float(s) for s in scale)


def refuse_size_of_picture(
    model: nn.Module, scales: Sequence[float], seen: Trace, channels: int, *, predicts_noise: bool
) -> None:
    """Raise where the size asked of a network that reads latents must be the size of a picture.

    Parameters
    ----------
    scales : sequence of float
        What the size comes to, along each axis.
    channels : int
        Channels of the image that the network reads. Latents have at least 4.
    predicts_noise : bool
        Whether the names of the weights show a noise predictor; the config of a denoiser of diffusers shows one, too.

    Examples
    --------
    >>> import torch
    >>> from rekernel.torch.tracing.run import trace
    >>> net = nn.Conv2d(4, 4, 3, padding=1)
    >>> refuse_size_of_picture(net, (16, 16), trace(net, [torch.zeros(1, 4, 16, 16)]), 4, predicts_noise=True)
    Traceback (most recent call last):
    rekernel.errors.RekernelError: size=256 is of the input of this Conv2d, 16x16 latents; for a picture of 256x256
    pixels, with an autoencoder that reduces 8 times, write size=32
    """
    latents = channels > 3 and (predicts_noise or hasattr(getattr(model, "config", None), "sample_size"))
    if not latents or max(scales) <= PICTURE:
        return
    picture = tuple(round(n * s) for n, s in zip(seen.size, scales, strict=True))
    latent = tuple(max(1, n // REDUCES) for n in picture)
    asked, instead = (str(n[0] if len(set(picture)) == 1 else n) for n in (picture, latent))
    raise RekernelError(
        f"size={asked} is of the input of this {type(model).__name__}, {dims(seen.size)} latents; for a picture of "
        f"{dims(picture)} pixels, with an autoencoder that reduces {REDUCES} times, write size={instead}"
    )
