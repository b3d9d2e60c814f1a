"""Compute the rotary tables of diffusers' transformers at other frequencies.

Scope: the position modules of diffusers, by their class names: positions in, tables of the same shape and dtype out.
Not here: the frequencies (see `frequencies`), the table of Stable Diffusion 3 (see `sincos_table`).

Each function returns what to lend to a network for one call: a position module with another forward method. Only the
axes of the image have other frequencies; text tokens lie at 0 there, or keep the trained frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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


_BY_CLASS: dict[str, Callable[[Any, Rescaling], tuple[str, Any]]] = {
    "FluxPosEmbed": _flux,
    "Flux2PosEmbed": _flux,
}
_PLACES = ("pos_embed", "rope", "rope_embedder")


def position_module(network: nn.Module) -> Any:
    """The part of a network that makes its rotary tables, or None for a network without one that is known."""
    parts = (getattr(network, name, None) for name in _PLACES)
    return next((part for part in parts if type(part).__name__ in _BY_CLASS), None)


def rescaled_tables(module: Any, rescaling: Rescaling) -> Loan:
    """What to lend to a position module for a call whose axes are rescaled."""
    name, value = _BY_CLASS[type(module).__name__](module, rescaling)
    return Loan(module, name, value)
