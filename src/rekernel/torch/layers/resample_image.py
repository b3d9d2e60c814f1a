"""Resample the image in front of a model to the size for which the model was trained.

Scope: tensors and resampling operators. Not here: when no layer can absorb the scale (see `torch.planning.reading`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import RekernelError
from ...plan.changes import AxisGeometry
from ...plan.plan import Plan
from ...resampling.geometry import new_size
from ...resampling.methods import GRID_METHODS, canonical_method
from ...resampling.operators import grid_operator
from ...text import dims, scale_text

_LARGEST = 1 << 15  # bound on the pixels along an axis, which a wrong scale would exceed


class Resample:
    """A forward pre-hook that brings images to `1 / scale` times their size, as values with half-pixel centres.

    The filter removes what would alias. An enlargement by 'area' is by 'cubic', since the area of a part of a pixel is
    the pixel. Every floating-point tensor that has the size of the first image is resampled; others pass unchanged.

    Parameters
    ----------
    scale : tuple of float, or float
        New pixels per old pixel, one per spatial axis; the images that arrive have the new size. A single number is for
        all axes behind the first two, (N, C, *spatial), of which the names in a file do not tell how many there are.
    method : {'area', 'linear', 'cubic', 'lanczos3'}
    sizes : sequence of (trained, new), optional
        Pixels of the trained image and of the new one along each axis, where these are known. Then the ratio of the two
        counts: 224 pixels at scale .4 are 90, and 90 / .4 would be 225.

    Examples
    --------
    >>> args, _ = Resample((2.0,), "area")(torch.nn.Identity(), (torch.tensor([[[0.0, 2.0, 4.0, 8.0]]]),), {})
    >>> args[0]
    tensor([[[1., 6.]]])
    >>> Resample((0.4,), "cubic", [(224, 90)]).reduced(torch.ones(1, 1, 90)).shape
    torch.Size([1, 1, 224])
    """

    def __init__(self, scale: tuple[float, ...] | float, method: str, sizes: Sequence[tuple[int, int]] = ()) -> None:
        self.scale, self.method = scale, method
        self._ratios = tuple(old / new for old, new in sizes)

    def __call__(self, _module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        size: tuple[int, ...] = ()
        changed = []
        for value in (*args, *kwargs.values()):
            axes = len(self._factors(value)) if isinstance(value, Tensor) else 0
            here = tuple(value.shape[-axes:]) if axes and value.ndim > max(axes, 1) else ()
            size = size or here
            changed.append(self.reduced(value) if here and here == size and value.is_floating_point() else value)
        return tuple(changed[: len(args)]), dict(zip(kwargs, changed[len(args) :], strict=True))

    def reduced(self, x: Tensor) -> Tensor:
        """The image at the trained size, in the dtype of `x`."""
        factors = self._factors(x)
        for axis, factor in enumerate(factors, x.ndim - len(factors)):
            n = x.shape[axis]
            small = max(1, new_size(n, factor))
            if small != n:
                matrix = torch.from_numpy(_matrix(n, small, self.method))
                matrix = matrix.to(x.device, torch.promote_types(x.dtype, torch.float32))
                x = (x.movedim(axis, -1).to(matrix.dtype) @ matrix.T).movedim(-1, axis).to(x.dtype)
        return x

    def _factors(self, x: Tensor) -> tuple[float, ...]:
        """Trained pixels per pixel that arrives, one number per spatial axis of `x`."""
        if isinstance(self.scale, float):
            return (1 / self.scale,) * max(x.ndim - 2, 0)
        return self._ratios or tuple(1 / s for s in self.scale)

    def __repr__(self) -> str:
        return f"Resample(scale={self.scale}, method={self.method!r})"


def resampler(plan: Plan) -> Resample | None:
    """What brings the image to the trained size in front of a model, as its plan says; None if nothing does.

    Examples
    --------
    >>> resampler(Plan(())) is None
    True
    """
    for module in plan.modules:
        if module.kind == "resample":
            sizes = list(zip(*(_pixels(side) for side in (module.geometry, module.new_geometry)), strict=False))
            scale = (plan.scale,) * len(sizes) if sizes and isinstance(plan.scale, float) else plan.scale
            if sizes and not _fit(sizes, scale):
                listed = " and ".join(dims(side) for side in zip(*sizes, strict=True))
                raise RekernelError(
                    f"the plan resamples an image of {listed} pixels (trained and new), which does not fit its scale "
                    f"of {scale_text(scale)}; plan again"
                )
            return Resample(scale, module.method or "area", sizes)
    return None


def _pixels(geometry: Sequence[AxisGeometry]) -> list[int]:
    return [g.kernel for g in geometry]


def _fit(sizes: Sequence[tuple[int, int]], scale: float | Sequence[float]) -> bool:
    """Whether the new sizes are the trained ones times the scale: a plan from a file may say anything."""
    scales = scale if isinstance(scale, Sequence) else ()
    return len(scales) == len(sizes) and all(
        old > 0 and new > 0 and new == new_size(old, s) for (old, new), s in zip(sizes, scales, strict=True)
    )


@lru_cache(maxsize=64)
def _matrix(n: int, small: int, method: str) -> NDArray[np.float64]:
    # An array, since a cached tensor would keep what is around the first call: fake tensors, inference mode.
    if max(n, small) > _LARGEST:
        raise RekernelError(f"an image of {n} pixels is too large to be resampled to {small}")
    name = "cubic" if method == "area" and small > n else method
    return grid_operator(n, small, canonical_method(name, GRID_METHODS), gain="none").copy()
