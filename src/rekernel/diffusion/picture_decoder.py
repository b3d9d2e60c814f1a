"""Find the autoencoder of a pipeline, and how many pixels of the picture one of its latents stands for.

Scope: attributes of pipelines. Not here: decoding (see `cascade/autoencoder`). Imports neither torch nor diffusers.
"""

from __future__ import annotations

from typing import Any

_AUTOENCODERS = ("vae", "vqvae", "movq")
_CELLS = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor", "movq_scale_factor")


def autoencoder_of(pipe: Any) -> Any:
    """The autoencoder, or None for a pipeline of pixels and for one whose autoencoder was left out."""
    # By identity: the wrapper of `torch.compile` has no truth value.
    return next((part for name in _AUTOENCODERS if (part := getattr(pipe, name, None)) is not None), None)


def cell_of(pipe: Any) -> int:
    """Pixels of the picture for one pixel of the latents, along an axis; 1 for a pipeline of pixels.

    Examples
    --------
    >>> class Latent:
    ...     vae, vae_scale_factor = None, 8
    >>> cell_of(Latent()), cell_of(object())
    (8, 1)
    """
    if not any(hasattr(pipe, name) for name in _AUTOENCODERS):
        return 1
    said = [n for name in _CELLS if isinstance(n := getattr(pipe, name, None), int)]
    if said:
        return said[0]
    widths = getattr(getattr(autoencoder_of(pipe), "config", None), "block_out_channels", None)
    return 2 ** (len(widths) - 1) if widths else 8 if autoencoder_of(pipe) is not None else 1


def samples_latents(pipe: Any) -> bool:
    """Whether a pipeline samples latents, also one whose autoencoder was left out."""
    return autoencoder_of(pipe) is not None or cell_of(pipe) > 1


__all__ = ["autoencoder_of", "cell_of", "samples_latents"]
