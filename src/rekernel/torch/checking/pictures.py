"""Make inputs that show whether a rescaled network does what the trained one does: the same picture at two sizes.

Scope: tensors. Not here: running models on them (see `checking.by_running`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import RekernelError
from ...resampling.geometry import new_size
from ...text import dims
from ..measure.equivariance import reduce_grid

CYCLES = 2.0
"""Highest number of cycles of a smooth picture across the image."""
_WAVES = 4


Arguments = tuple[list[Any], dict[str, Any]]


@dataclass(frozen=True)
class Inputs:
    """The arguments of a model: those on the grid of the image are replaced by pictures.

    args, kwargs : the arguments at the trained size
    size : pixels of the trained image, one number per axis
    scales : new pixels per old pixel

    Raises
    ------
    RekernelError
        If a tensor on the grid holds no picture: nothing can be measured on it.
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        empty = next((v for v in self.values if self._on_grid(v) and v.numel() == 0), None)
        if empty is not None:
            raise RekernelError(
                f"example_input: a tensor of shape {dims(empty.shape)} holds no picture; pass a batch of one or more"
            )

    @property
    def new(self) -> tuple[int, ...]:
        """Pixels of the new image."""
        return tuple(new_size(n, s) for n, s in zip(self.size, self.scales, strict=True))

    @property
    def values(self) -> list[Any]:
        """All arguments."""
        return [*self.args, *self.kwargs.values()]

    def enlarged(self) -> Arguments:
        """The arguments at the new size, with zeros for all that lies on the grid of the image."""
        return self._replaced(lambda like, _: (like, like.new_zeros((*self._lead(like), *self.new))))[1]

    def smooth(self, cycles: float = CYCLES) -> tuple[Arguments, Arguments]:
        """A picture of at most `cycles` across, at both sizes."""

        def picture(like: Tensor, number: int, size: tuple[int, ...]) -> Tensor:
            return _like(like, waves(self._lead(like), size, cycles, _generator(number)))

        return self._pictures(lambda like, i: (picture(like, i, self.size), picture(like, i, self.new)))

    def flat(self) -> tuple[Arguments, Arguments]:
        """A picture with one value for each channel, at both sizes."""

        def pair(like: Tensor, number: int) -> tuple[Tensor, Tensor]:
            lead = self._lead(like)
            values = torch.randn(lead, generator=_generator(number), dtype=torch.float64)
            values = values.reshape(*lead, *(1 for _ in self.size))
            return _like(like, values.expand(*lead, *self.size)), _like(like, values.expand(*lead, *self.new))

        return self._pictures(pair)

    def noise(self, reduce: Callable[[Tensor], Tensor] | None = None) -> tuple[Arguments, Arguments]:
        """Noise at the new size, and the same reduced to the trained size, by default by the mean of each area."""

        def pair(like: Tensor, number: int) -> tuple[Tensor, Tensor]:
            large = _like(like, torch.randn((*self._lead(like), *self.new), generator=_generator(number)))
            image = large if large.ndim > len(self.size) + 1 else large[:, None]  # (N, T) is a signal of one channel
            small = reduce(image) if reduce is not None else reduce_grid(image, self.size)
            return small.reshape(like.shape), large

        return self._pictures(pair)

    def blocks(self) -> tuple[Arguments, Arguments]:
        """Noise at the trained size, and the same with each pixel repeated, for whole scales.

        Every filter within a block reduces the large picture to the small one.
        """

        def pair(like: Tensor, number: int) -> tuple[Tensor, Tensor]:
            small = _like(like, torch.randn(like.shape, generator=_generator(number)))
            return small, repeated(small, self.scales)

        return self._pictures(pair)

    def _pictures(self, pair: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> tuple[Arguments, Arguments]:
        """The arguments at both sizes, with a pair of pictures for each image; masks and labels follow the grid."""
        return self._replaced(lambda t, i: pair(t, i) if t.is_floating_point() else (t, self._followed(t)))

    def _replaced(self, pair: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> tuple[Arguments, Arguments]:
        """The arguments at both sizes, with `pair(tensor, number)` for each tensor on the grid."""
        count, pairs = 0, []
        for value in self.values:
            on_grid = self._on_grid(value)
            count += on_grid
            pairs.append(pair(value, count) if on_grid else (_beside(value),) * 2)
        small, large = ([pair[side] for pair in pairs] for side in (0, 1))
        return self._arguments(small), self._arguments(large)

    def _arguments(self, values: list[Any]) -> Arguments:
        count = len(self.args)
        return values[:count], dict(zip(self.kwargs, values[count:], strict=True))

    def _on_grid(self, value: Any) -> bool:
        """Whether a value is a tensor on the grid of the image: (N, C, *spatial), or (N, *spatial)."""
        if not isinstance(value, Tensor) or value.ndim < 2:
            return False
        return value.ndim - len(self.size) in (1, 2) and tuple(value.shape[value.ndim - len(self.size) :]) == self.size

    def _lead(self, like: Tensor) -> tuple[int, ...]:
        return tuple(like.shape[: like.ndim - len(self.size)])

    def _followed(self, labels: Tensor) -> Tensor:
        """Labels at the new size: each new pixel takes the old pixel under it."""
        for axis, (old, n) in enumerate(zip(self.size, self.new, strict=True), len(self._lead(labels))):
            places = ((torch.arange(n) + 0.5) * old / n).long().clamp(max=old - 1).to(labels.device)
            labels = labels.index_select(axis, places)
        return labels


def repeated(x: Tensor, scales: Sequence[float]) -> Tensor:
    """Repeat each pixel along the last axes by whole scales.

    Examples
    --------
    >>> repeated(torch.tensor([[1.0, 2.0]]), (2.0,))
    tensor([[1., 1., 2., 2.]])
    """
    for axis, scale in enumerate(scales, x.ndim - len(scales)):
        x = x.repeat_interleave(round(scale), axis)
    return x


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


def _like(example: Tensor, picture: Tensor) -> Tensor:
    """A picture with the mean, the spread and the kind of numbers of an example."""
    mean, spread = _spread(example)
    made: Tensor = picture * spread + mean
    return made.to(example.device, example.dtype).contiguous()


def _beside(value: Any) -> Any:
    """An argument beside the image, with noise for an image of another size that has one value everywhere.

    Zeros would hide what the model does to that image.
    """
    if not isinstance(value, Tensor) or value.device.type == "meta" or value.ndim < 4 or not value.is_floating_point():
        return value
    constant = value.numel() > 1 and bool((value == value.reshape(-1)[0]).all())
    return _like(value, torch.randn(value.shape, generator=_generator(0))) if constant else value


def _spread(like: Tensor) -> tuple[float, float]:
    """Mean and spread of the pictures: those of the example, if it is not a constant."""
    if like.device.type == "meta" or like.numel() < 2:
        return 0.0, 1.0
    values = like.detach().float()
    spread = float(values.std())
    return (float(values.mean()), spread) if 0 < spread < float("inf") else (0.0, 1.0)


def _generator(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)
