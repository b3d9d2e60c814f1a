"""Reduce the arguments that lie on the image's grid: residuals of side networks, masks, sizes given to the network.

Scope: argument names of diffusers' networks. An argument with pixels is averaged like the image; its values are not
rescaled. Not here: the image and its time (see `call`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...errors import RekernelError
from ..formulas.low_band import Split
from .rotary_argument import is_rotary_table, reduced_table

_MAPS = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
    "image_latents",
)
_REFUSED = {
    "block_controlnet_hidden_states": "a ControlNet's residuals on tokens",
    "controlnet_block_samples": "a ControlNet's residuals on tokens",
    "controlnet_single_block_samples": "a ControlNet's residuals on tokens",
    "image_rotary_emb": "position tables made for the full size",
    "video_coords": "coordinates made for the full size",
}
_WITH_TABLES = ("LuminaNextDiT2DModel", "HunyuanDiT2DModel")
_HEIGHT_AND_WIDTH = ("time_ids", "resolution", "original_size", "target_size", "crop_coords", "image_meta_size")
"""Sizes in pixels, as (height, width) pairs: of SDXL, PixArt, CogView and Hunyuan-DiT."""


def check_reducible(network: Any) -> None:
    """Raise for a network whose pipelines always give it an argument that cannot be reduced."""
    name = type(network).__name__
    if name in _WITH_TABLES:
        raise RekernelError(
            f"{name}: its pipeline gives it image_rotary_emb, {_REFUSED['image_rotary_emb']}, which cannot be reduced "
            f"for the low-resolution pass; sample without guidance"
        )


def reduced_conditions(
    arguments: Mapping[str, Any], split: Split, tokens: Sequence[int] = (), low_tokens: Sequence[int] = ()
) -> dict[str, Any]:
    """The arguments that change when the grid is reduced, at its low size.

    Feature maps of a ControlNet or T2I-Adapter are reduced, each from its own size. The original size, crop and target
    size of SDXL and CogView and PixArt's resolution are divided. Times per token are shortened to the new number of
    tokens. Text and image embeddings do not change.

    Raises
    ------
    RekernelError
        For an argument that cannot be reduced; the message names the argument.
    """
    table = arguments.get("image_rotary_emb")
    reducible = is_rotary_table(table, tokens)
    for name, what in _REFUSED.items():
        if arguments.get(name) is not None and not (reducible and arguments[name] is table):
            raise RekernelError(f"{name}: {what} cannot be reduced for the low-resolution pass; sample without it")
    changed = {name: _reduced(arguments[name], split) for name in _MAPS if arguments.get(name) is not None}
    if reducible:
        changed["image_rotary_emb"] = reduced_table(arguments["image_rotary_emb"], tokens, low_tokens)
    changed |= _divided(arguments, split)
    if isinstance(arguments.get("added_cond_kwargs"), Mapping):
        changed["added_cond_kwargs"] = _sizes(arguments["added_cond_kwargs"], split)
    times = arguments.get("timestep")
    if isinstance(times, Tensor) and times.ndim == 2:  # one time per token
        changed["timestep"] = times[:, : times.shape[1] * math.prod(split.low) // math.prod(split.size)]
    text, frames = arguments.get("encoder_hidden_states"), split.low[0]
    if (mask := _joint_mask(arguments, math.prod(tokens), math.prod(low_tokens))) is not None:
        changed["attention_mask"] = mask
    if len(split.size) == 3 and frames != split.size[0] and isinstance(text, Tensor):
        changed["encoder_hidden_states"] = _by_frame(text, arguments, split)
    return changed


def _reduced(value: Any, split: Split) -> Any:
    if isinstance(value, Tensor):
        return split.at(tuple(value.shape[2:])).low_input(value)
    if isinstance(value, list | tuple):
        return type(value)(_reduced(v, split) for v in value)
    return value


def _joint_mask(arguments: Mapping[str, Any], tokens: int, low_tokens: int) -> Tensor | None:
    """The mask of the text and, behind it, of all low tokens; None where there is no such mask (Chroma has one)."""
    mask, text = arguments.get("attention_mask"), arguments.get("encoder_hidden_states")
    if not (isinstance(mask, Tensor) and isinstance(text, Tensor) and mask.ndim == 2 and text.ndim == 3):
        return None
    both = mask.shape[1] == text.shape[1] + tokens and bool(mask[:, text.shape[1] :].all())
    return mask[:, : text.shape[1] + low_tokens] if both else None


def _by_frame(text: Tensor, arguments: Mapping[str, Any], split: Split) -> Tensor:
    """Text embeddings that a pipeline repeats for each frame (AnimateDiff), for the reduced number of frames."""
    batch = next(v.shape[0] for n in ("sample", "hidden_states") if isinstance(v := arguments.get(n), Tensor))
    if text.shape[0] != batch * split.size[0]:
        return text
    each = text.reshape(batch, split.size[0], *text.shape[1:]).movedim(1, -1)
    along = replace(split, size=split.size[:1], low=split.low[:1])
    result: Tensor = along.low_input(each).movedim(-1, 1).flatten(0, 1)
    return result


def _divided(conditions: Mapping[str, Any], split: Split) -> dict[str, Tensor]:
    """Those of the conditions that are sizes in pixels, divided by the factors."""
    rows, columns = _factors(split)
    changed = {}
    for name in _HEIGHT_AND_WIDTH:
        sizes = conditions.get(name)
        if isinstance(sizes, Tensor):
            count = sizes.shape[-1] // 2 * 2  # a refiner's last entry is an aesthetic score
            divided = sizes.float().clone()
            divided[..., 0:count:2] /= rows
            divided[..., 1:count:2] /= columns
            changed[name] = divided.to(sizes.dtype)
    return changed


def _factors(split: Split) -> tuple[float, ...]:
    return tuple(n / m for n, m in zip(split.size[-2:], split.low[-2:], strict=True))


def _sizes(conditions: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """The conditions in a dictionary of their own, for the low size."""
    rows, columns = _factors(split)
    changed = {**conditions, **_divided(conditions, split)}
    if isinstance(conditions.get("aspect_ratio"), Tensor):
        changed["aspect_ratio"] = conditions["aspect_ratio"] * (columns / rows)
    if isinstance(hint := conditions.get("hint"), Tensor):  # a picture that the network itself joins to the image
        changed["hint"] = _reduced(hint, split)
    return changed
