"""Resample the image in front of a model to the size for which the model was trained.

Scope: tensors and resampling operators. Not here: when no layer can absorb the scale (see `torch.planning.reading`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import RekernelError
from ...plan.plan import Plan
from ...resampling.geometry import new_size
from ...resampling.operators import grid_operator

_LARGEST = 1 << 15  # bound on the pixels along an axis, which a wrong scale would exceed


class Resample:
    """A forward pre-hook that brings images to `1 / scale` times their size, as values with half-pixel centres.

    The filter removes what would alias. An enlargement by 'area' is by 'cubic', since the area of a part of a pixel is
    the pixel. Every floating-point tensor that has the size of the first image is resampled; others pass unchanged.

    Parameters
    ----------
    scale : tuple of float
        New pixels per old pixel, one per spatial axis; the images that arrive have the new size.
    method : {'area', 'linear', 'cubic', 'lanczos3'}

    Examples
    --------
    >>> args, _ = Resample((2.0,), "area")(torch.nn.Identity(), (torch.tensor([[[0.0, 2.0, 4.0, 8.0]]]),), {})
    >>> args[0]
    tensor([[[1., 6.]]])
    """

    def __init__(self, scale: tuple[float, ...], method: str) -> None:
        self.scale, self.method = scale, method

    def __call__(self, _module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        size: tuple[int, ...] = ()
        dims = len(self.scale)
        changed = []
        for value in (*args, *kwargs.values()):
            here = tuple(value.shape[-dims:]) if isinstance(value, Tensor) and value.ndim > max(dims, 1) else ()
            size = size or here
            changed.append(self.reduced(value) if here and here == size and value.is_floating_point() else value)
        return tuple(changed[: len(args)]), dict(zip(kwargs, changed[len(args) :], strict=True))

    def reduced(self, x: Tensor) -> Tensor:
        """The image at the trained size, in the dtype of `x`."""
        for axis, scale in enumerate(self.scale, x.ndim - len(self.scale)):
            n = x.shape[axis]
            small = max(1, new_size(n, 1 / scale))
            if small != n:
                matrix = torch.from_numpy(_matrix(n, small, self.method))
                matrix = matrix.to(x.device, torch.promote_types(x.dtype, torch.float32))
                x = (x.movedim(axis, -1).to(matrix.dtype) @ matrix.T).movedim(-1, axis).to(x.dtype)
        return x

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
            dims = len(module.geometry) or 2
            scale = plan.scale if isinstance(plan.scale, tuple) else (plan.scale,) * dims
            return Resample(scale, module.method or "area")
    return None


@lru_cache(maxsize=64)
def _matrix(n: int, small: int, method: str) -> NDArray[np.float64]:
    # An array, since a cached tensor would keep what is around the first call: fake tensors, inference mode.
    if max(n, small) > _LARGEST:
        raise RekernelError(f"an image of {n} pixels is too large to be resampled to {small}")
    method = "cubic" if method == "area" and small > n else method
    return grid_operator(n, small, method, gain="none").copy()
