"""Show a kernel before and after rescaling: its taps, and what it does to each frequency.

Scope: weights and changes of a plan. Not here: pictures of them (see `torch.report`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...plan.changes import LayerChange
from ...resampling.arrays import resample

_KINDS = ("conv", "conv-transpose", "patch", "linear-in")
_SPECTRA = 2048  # kernels whose mean response is computed
_POINTS = 65  # frequencies of a curve
_LARGEST = 64  # taps along an axis of a picture of a kernel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class KernelView:
    """One layer's kernels before and after rescaling.

    name, kind, method : of the change in the plan
    scale : new pixels per old pixel along the last axis
    old, new : the strongest kernel of the layer as (rows, columns); a sum over further axes
    old_response, new_response : root mean square over the layer's kernels of the absolute frequency response along the
        last axis, divided by that of the old kernels at frequency 0; (points, 2), with the frequency in cycles per old
        pixel in front
    """

    name: str
    kind: str
    method: str
    scale: float
    old: Floats
    new: Floats
    old_response: Floats
    new_response: Floats


def kernel_view(change: LayerChange, weights: Mapping[str, Tensor]) -> KernelView | None:
    """The view of one change; None for what is not a kernel or not resampled.

    Parameters
    ----------
    change : LayerChange
    weights : tensors of the original by name

    Examples
    --------
    >>> import torch
    >>> from rekernel.torch import rescale
    >>> layer = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1))
    >>> plan = rescale(layer, 2, torch.zeros(1, 1, 8, 8), mode="supersample").rekernel_plan
    >>> view = kernel_view(plan.changed[0], layer.state_dict())
    >>> view.old.shape, view.scale
    ((3, 3), 2.0)
    """
    weight = weights.get(change.name)
    if change.kind not in _KINDS or not change.operators or weight is None or weight.shape != change.shape:
        return None
    last = max(change.operators, key=lambda operator: operator.axis)
    w = weight.detach().to("cpu", torch.float32).reshape(change.view or change.shape)
    if last.axis != w.ndim - 1 or w.ndim < 3:
        return None
    w = w.flatten(0, 1)[:_SPECTRA]  # one kernel for each pair of channels
    strongest = int(w.flatten(1).norm(dim=1).argmax())
    matrices = {operator.axis - 1: operator.matrix() for operator in change.operators if operator.axis > 1}
    new: Tensor = resample(w, matrices)
    return KernelView(
        change.name, change.kind, last.method, last.scale,
        _plane(w[strongest]), _plane(new[strongest]),
        *_responses(_along_last(w), _along_last(new), last.scale),
    )  # fmt: skip


def _plane(kernel: Tensor) -> Floats:
    """The taps as rows and columns, cut to what a picture can show."""
    flat = kernel[None] if kernel.ndim == 1 else kernel.flatten(0, -3).sum(0) if kernel.ndim > 2 else kernel
    return flat[:_LARGEST, :_LARGEST].double().numpy()


def _along_last(kernels: Tensor) -> Floats:
    """Each kernel's taps along its last axis, summed over its other axes: the response to vertical stripes."""
    return (kernels if kernels.ndim == 2 else kernels.flatten(1, -2).sum(1)).double().numpy()


def _responses(old: Floats, new: Floats, scale: float) -> tuple[Floats, Floats]:
    reach = np.linspace(0, max(0.5, scale / 2), _POINTS)
    before = np.linspace(0, 0.5, _POINTS)
    one = _response(old, before)
    other = _response(new, reach / scale)
    unit = one[0] or 1.0
    return np.stack([before, one / unit], 1), np.stack([reach, other / unit], 1)


def _response(taps: Floats, frequencies: Floats) -> Floats:
    """Root mean square over the kernels of |sum_j w_j exp(-2 pi i f j)|."""
    waves = np.exp(-2j * np.pi * np.outer(np.arange(taps.shape[1]), frequencies))
    found: Floats = np.sqrt(np.mean(np.abs(taps @ waves) ** 2, axis=0))
    return found
