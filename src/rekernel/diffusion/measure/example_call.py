"""Make up the arguments of a denoiser besides its image and time, from its config, where no pipeline gives them.

Scope: the names that diffusers' UNets give their conditions. Not here: calling the network (see
`denoiser_verification`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...errors import Option, RekernelError
from ...escape import shown

IMAGES = ("sample", "timestep"), ("hidden_states", "timestep")
_WORDS = 16  # tokens of a made-up text


def is_denoiser(model: nn.Module) -> bool:
    """Whether the forward method of a network takes an image and a time under the names that diffusers gives them.

    Examples
    --------
    >>> is_denoiser(nn.Conv2d(1, 1, 3))
    False
    """
    try:
        names = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return False
    return any(image in names and time in names for image, time in IMAGES)


def made_up_conditions(model: nn.Module, count: int, size: tuple[int, ...]) -> dict[str, Any]:
    """Keyword arguments for a batch: the classes in turn, and text embeddings of random numbers.

    Parameters
    ----------
    model : a UNet of diffusers
    count : batch size
    size : size of the picture in pixels of the network, (H, W)

    Raises
    ------
    RekernelError
        If the network needs an argument that this function does not know.
    """
    config = dict(getattr(model, "config", {}))
    draw = torch.Generator().manual_seed(0)
    signature = inspect.signature(model.forward).parameters
    found: dict[str, Any] = {}
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    if classes and "class_labels" in signature:
        found["class_labels"] = torch.arange(count) % (classes - 1 if classes > 1 else 1)
    width = config.get("cross_attention_dim")
    width = width[0] if isinstance(width, list | tuple) else width
    if "encoder_hidden_states" in signature and isinstance(width, int):
        found["encoder_hidden_states"] = torch.randn(count, _WORDS, width, generator=draw)
    if config.get("addition_embed_type") == "text_time":
        found["added_cond_kwargs"] = _of_sdxl(config, count, size, draw)
    needed = [
        name
        for name, parameter in list(signature.items())[2:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in found
    ]
    if needed:
        raise RekernelError(
            f"{type(model).__name__} also needs {', '.join(map(shown, needed))}; ",
            Option(
                "pass them as conditions=", "name a function that runs it: --forward mine.py:run, or pass the pipeline"
            ),
        )
    return found


def _of_sdxl(config: Mapping[str, Any], count: int, size: tuple[int, ...], draw: torch.Generator) -> dict[str, Any]:
    """Pooled text, and the original size, crop and target size in pixels of the picture, 8 for each of the latent."""
    times = config.get("addition_time_embed_dim") or 256
    pooled = int(config.get("projection_class_embeddings_input_dim") or 2816) - 6 * times
    height, width = (8 * n for n in size[-2:])
    return {
        "text_embeds": torch.randn(count, pooled, generator=draw),
        "time_ids": torch.tensor([[height, width, 0, 0, height, width]] * count, dtype=torch.float32),
    }
