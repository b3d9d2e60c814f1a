"""Compute the rotary tables of diffusers' transformers at other frequencies.

Scope: the position modules of diffusers, by their class names: positions in, tables of the same shape and dtype out.
Not here: the frequencies (see `frequencies`), the table of Stable Diffusion 3 (see `cropped_table`).

A table stands in for the forward method of a position module during a call. It is kept from call to call, and its
frequencies are tensors that are overwritten, so that compiled code stays valid. Only the axes of the image have other
frequencies; text tokens lie at 0 there, or keep the trained frequencies.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..denoiser.call import Call
from ..denoiser.rotary_argument import channels_by_axis
from .frequencies import Floats, base_frequencies, rescaled_frequencies

_THETA = 10000.0  # of the modules that do not keep theirs; diffusers has no other


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


class Table(ABC):
    """The forward method of a position module, at other frequencies.

    attribute : name of the method that it stands in for
    """

    attribute: ClassVar[str] = "forward"

    def __init__(self, module: Any, rescaling: Rescaling, call: Call) -> None:
        self.module, self.tokens = module, rescaling.tokens
        self.turns = [torch.from_numpy(f) for f in self.frequencies(rescaling, call)]

    def update(self, rescaling: Rescaling, call: Call) -> None:
        """Overwrite the frequencies for another call on the same grid."""
        for kept, new in zip(self.turns, self.frequencies(rescaling, call), strict=True):
            kept.copy_(torch.from_numpy(new))

    @abstractmethod
    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        """The frequencies of each axis of the module."""

    def angles(self, positions: Tensor) -> Tensor:
        """The angles (..., channels / 2) of tokens at `positions` (..., axes)."""
        return _angles(positions, self.turns)

    def on_grid(self, device: Any) -> Tensor:
        """The angles of all tokens of the call, whose positions count from 0."""
        return self.angles(grid_positions(self.tokens, device))


class _Flux(Table):
    """FluxPosEmbed, Flux2PosEmbed: positions (tokens, axes) of text or image tokens to cosines and sines."""

    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        return rescaling.axes(self.module.axes_dim, self.module.theta)

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return cosine_and_sine(self.angles(ids))


class _QwenImage(Table):
    """QwenEmbedRope: the image around 0, and text on the diagonal behind the trained image."""

    def __init__(self, module: Any, rescaling: Rescaling, call: Call) -> None:
        super().__init__(module, rescaling, call)
        centred = module.scale_rope
        self.middle = [0, *(n - n // 2 if centred else 0 for n in self.tokens[1:])]
        rows, columns = (round(n / s) for n, s in zip(self.tokens[1:], rescaling.scales[1:], strict=True))
        self.behind = max(rows, columns) // (2 if centred else 1)
        self.trained = [torch.from_numpy(base_frequencies(d, module.theta)) for d in module.axes_dim]

    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        return rescaling.axes(self.module.axes_dim, self.module.theta)

    def __call__(self, shapes: Any, device: Any = None, max_txt_seq_len: Any = None) -> tuple[Tensor, Tensor]:
        image = self.angles(grid_positions(self.tokens, device) - torch.tensor(self.middle, device=device))
        places = torch.arange(int(max_txt_seq_len), device=device) + self.behind
        text = _angles(places[:, None].expand(-1, 3), self.trained)
        return _on_circle(image).to(torch.complex64), _on_circle(text).to(torch.complex64)


class _Lumina2(Table):
    """Lumina2RotaryPosEmbed: positions (B, tokens, 3) of text and image tokens; the first axis numbers the text."""

    attribute = "_get_freqs_cis"

    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        return rescaling.axes(self.module.axes_dim, self.module.theta)

    def __call__(self, ids: Tensor) -> Tensor:
        return _on_circle(self.angles(ids)).to(self.module.freqs_cis[0].dtype)


class _ZImage(Table):
    """RopeEmbedder: positions (tokens, 3) of text or image tokens; the first axis numbers the text."""

    attribute = "rope_embedder"  # of the network, since a RopeEmbedder is a callable and no module

    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        return rescaling.axes(self.module.axes_dims, self.module.theta)

    def __call__(self, ids: Tensor) -> Tensor:
        return _on_circle(self.angles(ids)).to(torch.complex64)


class _Wan(Table):
    """WanRotaryPosEmbed: a video (B, C, frames, H, W) to cosines and sines of (1, tokens, 1, channels)."""

    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        return rescaling.axes((self.module.t_dim, self.module.h_dim, self.module.w_dim), _THETA)

    def __call__(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = cosine_and_sine(self.on_grid(hidden_states.device))
        dtype = self.module.freqs_cos.dtype
        return cos[None, :, None].to(dtype), sin[None, :, None].to(dtype)


class _HunyuanVideo(Table):
    """HunyuanVideoRotaryPosEmbed: a video (B, C, frames, H, W) to cosines and sines of (tokens, channels)."""

    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        return rescaling.axes(self.module.rope_dim, self.module.theta)

    def __call__(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        return cosine_and_sine(self.on_grid(hidden_states.device))


class _LTXVideo(Table):
    """LTXVideoRotaryPosEmbed: coordinates in units of a base size; the channels of the axes lie in turns.

    An angle is w (2 c i - 1) for token i, with c the coordinate of a token. Its change per token, 2 c w, is rescaled.
    """

    def __init__(self, module: Any, rescaling: Rescaling, call: Call) -> None:
        super().__init__(module, rescaling, call)
        self.start = torch.from_numpy(self._trained())

    def _trained(self) -> Floats:
        return np.asarray(self.module.theta ** np.linspace(0.0, 1.0, self.module.dim // 6) * math.pi / 2)

    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        units, ratios = [1.0] * 3, call.arguments.get("rope_interpolation_scale")
        if ratios is not None:
            bases = (self.module.base_num_frames, self.module.base_height, self.module.base_width)
            patches = (self.module.patch_size_t, self.module.patch_size, self.module.patch_size)
            units = [float(r) * p / b for r, p, b in zip(ratios, patches, bases, strict=True)]
        return [rescaling.frequencies(axis, 2 * unit * self._trained()) for axis, unit in enumerate(units)]

    def __call__(self, hidden_states: Tensor, *_sizes: Any, **_more: Any) -> tuple[Tensor, Tensor]:
        turned = self.on_grid(hidden_states.device)
        turned = turned.reshape(len(turned), 3, -1) - self.start.to(turned)
        cos, sin = cosine_and_sine(turned.transpose(1, 2).reshape(len(turned), -1))
        still = self.module.dim % 6  # channels that are not turned lie in front
        cos = torch.cat([torch.ones_like(cos[:, :still]), cos], dim=-1)
        sin = torch.cat([torch.zeros_like(sin[:, :still]), sin], dim=-1)
        batch = len(hidden_states)
        return cos.expand(batch, -1, -1), sin.expand(batch, -1, -1)


class _CogVideoX(Table):
    """The table that a pipeline of CogVideoX passes to its network: cosines and sines of (tokens, channels)."""

    attribute = "image_rotary_emb"  # an argument of the network, which has no position module

    def frequencies(self, rescaling: Rescaling, call: Call) -> list[Floats]:
        return rescaling.axes(channels_by_axis(self.module.config["attention_head_dim"]), _THETA)

    def argument(self, given: Any) -> tuple[Tensor, Tensor]:
        """The table in the place of the given one."""
        cos, sin = cosine_and_sine(self.on_grid(given[0].device))
        return cos.to(given[0].dtype), sin.to(given[1].dtype)


_BY_CLASS: dict[str, type[Table]] = {
    "FluxPosEmbed": _Flux,
    "Flux2PosEmbed": _Flux,
    "QwenEmbedRope": _QwenImage,
    "Lumina2RotaryPosEmbed": _Lumina2,
    "RopeEmbedder": _ZImage,
    "WanRotaryPosEmbed": _Wan,
    "HunyuanVideoRotaryPosEmbed": _HunyuanVideo,
    "LTXVideoRotaryPosEmbed": _LTXVideo,
    "CogVideoXTransformer3DModel": _CogVideoX,
}
_PLACES = ("pos_embed", "rope", "rope_embedder")
_NETWORKS = (
    "FluxTransformer2DModel", "Flux2Transformer2DModel", "QwenImageTransformer2DModel", "Lumina2Transformer2DModel",
    "ZImageTransformer2DModel", "WanTransformer3DModel", "HunyuanVideoTransformer3DModel", "LTXVideoTransformer3DModel",
    "CogVideoXTransformer3DModel",
)  # fmt: skip
"""Other networks have some of these parts too, but are not tested; their attention may lie elsewhere."""


def position_module(network: nn.Module) -> Any:
    """The part of a network that makes its rotary tables, the network itself where a pipeline makes them, or None."""
    if type(network).__name__ not in _NETWORKS:
        return None
    parts = (getattr(network, name, None) for name in _PLACES)
    found = next((part for part in parts if type(part).__name__ in _BY_CLASS), None)
    if found is None and type(network).__name__ in _BY_CLASS:
        config: Any = network.config
        return network if config["use_rotary_positional_embeddings"] else None
    return found


def make_table(network: nn.Module, rescaling: Rescaling, call: Call) -> Table:
    """A table of the network for a call whose axes are rescaled."""
    module = position_module(network)
    return _BY_CLASS[type(module).__name__](module, rescaling, call)


def grid_positions(tokens: Sequence[int], device: Any) -> Tensor:
    """Positions (frames x rows x columns, 3) that count from 0.

    Examples
    --------
    >>> grid_positions((1, 2, 2), "cpu").tolist()
    [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    """
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in tokens), indexing="ij")
    return torch.stack(axes, dim=-1).flatten(0, 2)


def cosine_and_sine(turned: Tensor) -> tuple[Tensor, Tensor]:
    """Two float32 tables with every angle twice in a row."""
    twice = turned.repeat_interleave(2, dim=-1)
    return twice.cos().float(), twice.sin().float()


def _angles(positions: Tensor, turns: Sequence[Tensor]) -> Tensor:
    """Angles in float64 where the device has it."""
    dtype = torch.float32 if positions.device.type in ("mps", "npu") else torch.float64
    places = positions.to(dtype)
    return torch.cat([places[..., axis, None] * turn.to(places) for axis, turn in enumerate(turns)], dim=-1)


def _on_circle(turned: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(turned), turned)
