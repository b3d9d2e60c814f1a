"""Make inputs that show whether a rescaled network does what the trained one does: the same picture at two sizes.

Scope: tensors. Not here: running models on them (see `checking.by_running`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...resampling.geometry import new_size
from ..measure.verify import reduce_grid

CYCLES = 2.0
"""Highest number of cycles of a smooth picture across the image."""
_WAVES = 4


@dataclass(frozen=True)
class Inputs:
    """The arguments of a model: those on the grid of the image are replaced by pictures.

    args, kwargs : the arguments at the trained size
    size : pixels of the trained image, one number per axis
    scales : new pixels per old pixel
    latent : whether the input has no pixels, so that it is the same at both sizes
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    latent: bool = False

    @property
    def new(self) -> tuple[int, ...]:
        """Pixels of the new image."""
        return tuple(new_size(n, s) for n, s in zip(self.size, self.scales, strict=True))

    def on_grid(self, value: Any) -> bool:
        """Whether a value is a tensor on the grid of the image."""
        if not isinstance(value, Tensor) or value.ndim < 2:
            return False
        return tuple(value.shape[2:] if value.ndim > 2 else value.shape[1:]) == self.size

    def replaced(self, picture: Callable[[Tensor, int], Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with `picture(tensor, number)` for each tensor on the grid."""
        count = 0

        def each(value: Any) -> Any:
            nonlocal count
            if not self.on_grid(value):
                return value
            count += 1
            return picture(value, count)

        args = [each(a) for a in self.args]
        return args, {k: each(v) for k, v in self.kwargs.items()}

    def smooth(self, cycles: float = CYCLES, *, flat: bool = False) -> tuple[Any, Any]:
        """A picture of at most `cycles` across, at both sizes; `flat` makes it one value for each channel."""
        cycles = 0.0 if flat else cycles
        return self.replaced(lambda t, i: self._picture(t, i, self.size, cycles)), self.replaced(
            lambda t, i: self._picture(t, i, self.new, cycles)
        )

    def noise(self, reduce: Callable[[Tensor], Tensor] | None = None) -> tuple[Any, Any]:
        """Noise at the new size, and the same reduced to the trained size, by default by the mean of each area."""

        def large(like: Tensor, number: int) -> Tensor:
            if not like.is_floating_point() or self.latent:
                return self._picture(like, number, self.new)
            lead = like.shape[: like.ndim - len(self.size)]
            made: Tensor = torch.randn((*lead, *self.new), generator=_generator(number))
            mean, spread = _spread(like)
            return (made * spread + mean).to(like.device, like.dtype)

        def little(like: Tensor, number: int) -> Tensor:
            if not like.is_floating_point() or self.latent:
                return self._picture(like, number, self.size)
            made = large(like, number)
            added = made if made.ndim > len(self.size) + 1 else made[:, None]  # (N, T) is a signal of one channel
            done = reduce(added) if reduce is not None else reduce_grid(added, self.size)
            return Tensor.reshape(done, like.shape)

        return self.replaced(little), self.replaced(large)

    def blocks(self) -> tuple[Any, Any]:
        """Noise at the trained size, and the same with each pixel repeated, for whole scales.

        Every filter within a block reduces the large picture to the small one.
        """

        def little(like: Tensor, number: int) -> Tensor:
            if not like.is_floating_point() or self.latent:
                return self._picture(like, number, self.size)
            mean, spread = _spread(like)
            return (torch.randn(like.shape, generator=_generator(number)) * spread + mean).to(like)

        def large(like: Tensor, number: int) -> Tensor:
            made = little(like, number) if like.is_floating_point() and not self.latent else like
            for axis, (old, new) in enumerate(zip(self.size, self.new, strict=True), like.ndim - len(self.size)):
                made = made.repeat_interleave(new // old, axis)
            return made

        return self.replaced(little), self.replaced(large)

    def _picture(self, like: Tensor, number: int, size: tuple[int, ...], cycles: float = CYCLES) -> Tensor:
        lead = like.shape[: like.ndim - len(self.size)]
        if self.latent:
            return torch.randn(like.shape, generator=_generator(number)).to(like)
        if not like.is_floating_point():  # a mask or labels: each new pixel takes the old pixel under it
            for axis, (old, n) in enumerate(zip(self.size, size, strict=True), len(lead)):
                places = ((torch.arange(n) + 0.5) * old / n).long().clamp(max=old - 1).to(like.device)
                like = like.index_select(axis, places)
            return like
        mean, spread = _spread(like)
        if not cycles:
            values = torch.randn(lead, generator=_generator(number), dtype=torch.float64)
            made = values.reshape(*lead, *(1 for _ in size)).expand(*lead, *size)
        else:
            made = waves(lead, size, cycles, _generator(number))
        return Tensor.contiguous((made * spread + mean).to(like.device, like.dtype))


def waves(lead: Sequence[int], size: Sequence[int], most: float, generator: torch.Generator) -> Tensor:
    """A sum of plane waves, the same function of the place at every size, of variance about 1.

    Parameters
    ----------
    lead : sequence of int
        Sizes of the axes in front of the spatial ones; each entry has waves of its own.
    size : sequence of int
    most : float
        Largest number of cycles along an axis.
    generator : torch.Generator

    Examples
    --------
    >>> waves((1, 2), (4, 8), 1.0, torch.Generator().manual_seed(0)).shape
    torch.Size([1, 2, 4, 8])
    """
    total = torch.zeros((*lead, *size), dtype=torch.float64)
    shape = (*lead, *(1 for _ in size))
    for _ in range(_WAVES):
        phase = torch.rand(lead, generator=generator, dtype=torch.float64).reshape(shape) * 2 * torch.pi
        for axis, n in enumerate(size):
            cycles = (torch.rand(lead, generator=generator, dtype=torch.float64).reshape(shape) * 2 - 1) * most
            along = [1] * len(shape)
            along[len(lead) + axis] = n
            phase = phase + 2 * torch.pi * cycles * ((torch.arange(n, dtype=torch.float64) + 0.5) / n).reshape(along)
        total += torch.cos(phase)
    return total.mul(float((2 / _WAVES) ** 0.5))


def _spread(like: Tensor) -> tuple[float, float]:
    """Mean and spread of the pictures: those of the example, if it is not a constant."""
    if like.device.type == "meta" or like.numel() < 2:
        return 0.0, 1.0
    values = like.detach().float()
    spread = float(values.std())
    return (float(values.mean()), spread) if 0 < spread < float("inf") else (0.0, 1.0)


def _generator(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)
