"""Compute the rotary tables of diffusers' transformers at other frequencies.

Scope: the position modules of diffusers, by their class names: positions in, tables of the same shape and dtype out.
Not here: the frequencies (see `frequencies`), the table of Stable Diffusion 3 (see `cropped_table`).

Each function returns what to lend to a network for one call: a position module with another forward method. Only the
axes of the image have other frequencies; text tokens lie at 0 there, or keep the trained frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..denoiser.rotary_argument import channels_by_axis
from .frequencies import Floats, base_frequencies, rescaled_frequencies
from .lending import Loan


@dataclass(frozen=True)
class Rescaling:
    """How the axes of one call are rescaled.

    scales : tokens over trained tokens, for frames, rows and columns
    tokens : tokens of the call, for frames, rows and columns
    method, noise : as for `rescaled_frequencies`
    """

    scales: tuple[float, ...]
    tokens: tuple[int, ...]
    method: str
    noise: float = 1.0

    def frequencies(self, axis: int, trained: Any) -> Floats:
        """The frequencies of an axis (0 frames, 1 rows, 2 columns) from the trained ones."""
        scale = self.scales[axis]
        length = self.tokens[axis] / scale
        return rescaled_frequencies(trained, scale, self.method, length=length, noise=self.noise)

    def axes(self, dimensions: Sequence[int], theta: float) -> list[Floats]:
        """The frequencies of all axes of a network: frames, rows, columns, and further ones as trained."""
        bases = [base_frequencies(d, theta) for d in dimensions]
        return [self.frequencies(axis, base) if axis < 3 else base for axis, base in enumerate(bases)]


def angles(positions: Tensor, frequencies: Sequence[Floats]) -> Tensor:
    """The angles (..., sum of n) of tokens at `positions` (..., axes), in float64 where the device has it."""
    dtype = torch.float32 if positions.device.type in ("mps", "npu") else torch.float64
    places = positions.to(dtype)
    each = [torch.as_tensor(f, dtype=dtype, device=positions.device) for f in frequencies]
    return torch.cat([places[..., axis, None] * f for axis, f in enumerate(each)], dim=-1)


def cosine_and_sine(turned: Tensor) -> tuple[Tensor, Tensor]:
    """Two float32 tables with every angle twice in a row."""
    twice = turned.repeat_interleave(2, dim=-1)
    return twice.cos().float(), twice.sin().float()


def grid_positions(tokens: Sequence[int], device: Any) -> Tensor:
    """Positions (frames x rows x columns, 3) that count from 0."""
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in tokens), indexing="ij")
    return torch.stack(axes, dim=-1).flatten(0, 2)


def _flux(module: Any, rescaling: Rescaling) -> tuple[str, Any]:
    """FluxPosEmbed, Flux2PosEmbed: positions (tokens, axes) of text or image tokens to cosines and sines."""

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        return cosine_and_sine(angles(ids, rescaling.axes(module.axes_dim, module.theta)))

    return "forward", forward


def _qwen(module: Any, rescaling: Rescaling) -> tuple[str, Any]:
    """QwenEmbedRope: the image around 0, and text on the diagonal behind the trained image."""

    def forward(shapes: Any, device: Any = None, max_txt_seq_len: Any = None) -> tuple[Tensor, Tensor]:
        grid = rescaling.tokens
        bases = [base_frequencies(d, module.theta) for d in module.axes_dim]
        middle = [n - n // 2 if module.scale_rope else 0 for n in grid[1:]]
        places = grid_positions(grid, device) - torch.tensor([0, *middle], device=device)
        image = _on_circle(angles(places, [rescaling.frequencies(axis, base) for axis, base in enumerate(bases)]))
        trained = [round(n / s) // (2 if module.scale_rope else 1) for n, s in zip(grid, rescaling.scales, strict=True)]
        text = torch.arange(int(max_txt_seq_len), device=device) + max(trained[1:])
        return image.to(torch.complex64), _on_circle(angles(text[:, None].expand(-1, 3), bases)).to(torch.complex64)

    return "forward", forward


def _lumina(module: Any, rescaling: Rescaling) -> tuple[str, Any]:
    """Lumina2RotaryPosEmbed: positions (B, tokens, 3) of text and image tokens; the first axis numbers the text."""

    def by_position(ids: Tensor) -> Tensor:
        table = _on_circle(angles(ids, rescaling.axes(module.axes_dim, module.theta)))
        return table.to(module.freqs_cis[0].dtype)

    return "_get_freqs_cis", by_position


def _wan(module: Any, rescaling: Rescaling) -> tuple[str, Any]:
    """WanRotaryPosEmbed: a video (B, C, frames, H, W) to cosines and sines of (1, tokens, 1, channels)."""

    def forward(hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = rescaling.axes((module.t_dim, module.h_dim, module.w_dim), _WAN_THETA)
        tables = cosine_and_sine(angles(grid_positions(rescaling.tokens, hidden_states.device), frequencies))
        cos, sin = (part[None, :, None].to(module.freqs_cos.dtype) for part in tables)
        return cos, sin

    return "forward", forward


def _hunyuan(module: Any, rescaling: Rescaling) -> tuple[str, Any]:
    """HunyuanVideoRotaryPosEmbed: a video (B, C, frames, H, W) to cosines and sines of (tokens, channels)."""

    def forward(hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = rescaling.axes(module.rope_dim, module.theta)
        return cosine_and_sine(angles(grid_positions(rescaling.tokens, hidden_states.device), frequencies))

    return "forward", forward


def _ltx(module: Any, rescaling: Rescaling) -> tuple[str, Any]:
    """LTXVideoRotaryPosEmbed: coordinates in units of a base size; the channels of the axes lie in turns.

    An angle is w (2 c i - 1) for token i, with c the coordinate of a token. Its change per token, 2 c w, is rescaled.
    """

    def forward(
        hidden_states: Tensor, num_frames: int, height: int, width: int, rope_interpolation_scale: Any = None,
        video_coords: Any = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        trained = module.theta ** np.linspace(0.0, 1.0, module.dim // 6) * math.pi / 2
        bases = (module.base_num_frames, module.base_height, module.base_width)
        patches = (module.patch_size_t, module.patch_size, module.patch_size)
        units = [1.0] * 3
        if rope_interpolation_scale is not None:
            units = [float(r) * p / b for r, p, b in zip(rope_interpolation_scale, patches, bases, strict=True)]
        places = grid_positions((num_frames, height, width), hidden_states.device)
        each = [rescaling.frequencies(axis, 2 * unit * trained) for axis, unit in enumerate(units)]
        turned = angles(places, each).unflatten(-1, (3, -1))  # type: ignore[no-untyped-call]
        turned = (turned - torch.as_tensor(trained, dtype=turned.dtype, device=turned.device)).transpose(-1, -2)
        cos, sin = cosine_and_sine(turned.flatten(-2))
        still = module.dim % 6  # channels that are not turned lie in front
        cos = torch.cat([torch.ones_like(cos[:, :still]), cos], dim=-1)
        sin = torch.cat([torch.zeros_like(sin[:, :still]), sin], dim=-1)
        return tuple(part.expand(len(hidden_states), -1, -1) for part in (cos, sin))  # type: ignore[return-value]

    return "forward", forward


_WAN_THETA = _COGVIDEOX_THETA = 10000.0  # not kept by the modules; diffusers has no other
TABLE = "image_rotary_emb"
"""The argument with which CogVideoX gets its rotary table."""
_BY_CLASS: dict[str, Callable[[Any, Rescaling], tuple[str, Any]]] = {
    "FluxPosEmbed": _flux,
    "Flux2PosEmbed": _flux,
    "QwenEmbedRope": _qwen,
    "Lumina2RotaryPosEmbed": _lumina,
    "WanRotaryPosEmbed": _wan,
    "HunyuanVideoRotaryPosEmbed": _hunyuan,
    "LTXVideoRotaryPosEmbed": _ltx,
}
_Z_IMAGE = "RopeEmbedder"  # a callable, and no module: the network is lent another one
_PLACES = ("pos_embed", "rope", "rope_embedder")


def position_module(network: nn.Module) -> Any:
    """The part of a network that makes its rotary tables, or None for a network without one that is known."""
    parts = (getattr(network, name, None) for name in _PLACES)
    return next((part for part in parts if type(part).__name__ in (*_BY_CLASS, _Z_IMAGE)), None)


def rescaled_tables(network: nn.Module, rescaling: Rescaling) -> Loan:
    """What to lend to a network with rotary tables for a call whose axes are rescaled."""
    module = position_module(network)
    if type(module).__name__ == _Z_IMAGE:
        return Loan(network, "rope_embedder", _z_image(module, rescaling))
    return Loan(module, *_BY_CLASS[type(module).__name__](module, rescaling))


def _z_image(module: Any, rescaling: Rescaling) -> Callable[[Tensor], Tensor]:
    """RopeEmbedder: positions (tokens, 3) of text or image tokens, where the first axis numbers the text."""

    def by_position(ids: Tensor) -> Tensor:
        return _on_circle(angles(ids, rescaling.axes(module.axes_dims, module.theta))).to(torch.complex64)

    return by_position


def table_argument(rescaling: Rescaling, given: Any) -> dict[str, Any]:
    """The rotary table that a pipeline passes to CogVideoX, for a call whose axes are rescaled; no other argument."""
    cos: Tensor = given[0]
    frequencies = rescaling.axes(channels_by_axis(cos.shape[1]), _COGVIDEOX_THETA)
    tables = cosine_and_sine(angles(grid_positions(rescaling.tokens, cos.device), frequencies))
    return {TABLE: tuple(part.to(cos.dtype) for part in tables)}


def takes_table(network: nn.Module) -> bool:
    """Whether the network gets its rotary table from its pipeline: CogVideoX."""
    config: Any = getattr(network, "config", {})
    return type(network).__name__ == "CogVideoXTransformer3DModel" and config["use_rotary_positional_embeddings"]


def _on_circle(turned: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(turned), turned)
