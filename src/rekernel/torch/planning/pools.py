"""Describe the pooling modules of torch for the shared rules.

Scope: the attributes of pooling modules. Not here: what becomes of a pooling (see `planning.rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...plan.changes import AxisGeometry
from ...planning.layers import ConvAxis
from ..layers.padding import tuple_of

POOLS = {
    nn.MaxPool1d: "max-pool", nn.MaxPool2d: "max-pool", nn.MaxPool3d: "max-pool",
    nn.AvgPool1d: "avg-pool", nn.AvgPool2d: "avg-pool", nn.AvgPool3d: "avg-pool",
}  # fmt: skip
"""The kind that a plan gives to each pooling class of torch."""


def pool_axes(
    module: Any, scales: Sequence[float], size: Sequence[int] | None = None, offset: Sequence[float] = ()
) -> list[ConvAxis]:
    """The spatial axes of a pooling.

    Parameters
    ----------
    module : nn.MaxPool1d, nn.AvgPool1d, ...
    scales : sequence of float
        Scale of the grid that arrives, one per axis.
    size : sequence of int, optional
        Pixels of the grid that arrives, one number per axis, if known.
    offset : sequence of float, optional
        Distance of the arriving features from their place, one number per axis.

    Examples
    --------
    >>> pool_axes(nn.AvgPool1d(2), [2.0])[0].geometry
    AxisGeometry(kernel=2, stride=2, padding=(0, 0), dilation=1)
    """
    count = len(scales)
    kernel, stride, padding, dilation = (
        tuple_of(getattr(module, what, 1), count) for what in ("kernel_size", "stride", "padding", "dilation")
    )
    return [
        ConvAxis(
            AxisGeometry(kernel[i], stride[i], (padding[i], padding[i]), dilation[i]),
            scale, scale, size[i] if size else None, offset=offset[i] if offset else 0.0,
        )
        for i, scale in enumerate(scales)
    ]  # fmt: skip
