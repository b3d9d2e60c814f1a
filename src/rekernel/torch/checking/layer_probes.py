"""Check single layers: what a rescaled layer does to a picture with repeated pixels.

A dilated layer, a pooling on aligned grids, and a layer that reads areas give at phase 0 of a picture with repeated
pixels what the trained layer gave, exactly, wherever the layer stands in the network.
Source: docs/mathematics.md, "What a rescaled network computes" (ours).
Scope: one layer at a time. Not here: whole networks (see `checking.by_running`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from ...plan.changes import AxisGeometry, LayerChange
from ...resampling.geometry import is_whole
from ..layers.module_names import owner_of
from ..layers.probes import random_like
from ..planning.planner import Planned
from ..surroundings import own_precision
from ..tracing.eval_mode import evaluating
from ..tracing.layer_call import LayerCall
from ..tracing.run import Trace
from .deviations import at_phase_0, displacement, equal, exact_bound
from .pictures import repeated, waves

_OF_BLOCKS = ("dilate", "area", "nearest")  # methods that give of repeated pixels what the trained kernel gave
_LARGEST = 1 << 24  # entries of a probe
_MOST = 1 << 36  # products in one layer on one strip
_COLUMNS = 1 << 26  # entries of the matrix that torch makes of a picture for a convolution, but for float32
_LONG = 128  # pixels along a slow wave, at the stride of the layer
MOVED = 0.1
"""Bound on how far a layer moves a slow wave beside the place that its geometry gives, in new pixels."""


@dataclass(frozen=True)
class LayerProbe:
    """A probe of one layer.

    module : path of the layer
    large : the input at the new size
    answer : the output of the trained layer on the input at the trained size
    scales : new pixels per old pixel; empty where the output keeps its size
    axis : axis of a slow wave, counted among the spatial ones; -1 for a picture with repeated pixels
    moved : how far the layer moves a slow wave, in new pixels of its output
    slope : what the odd part of the kernel gives of the wave, which a design may change a little; empty for no wave
    """

    module: str
    large: Tensor
    answer: Tensor
    scales: tuple[float, ...] = ()
    axis: int = -1
    moved: float = 0.0
    slope: tuple[Tensor, ...] = ()


def layer_probes(model: nn.Module, seen: Trace, planned: Planned) -> list[LayerProbe]:
    """The answers of the trained layers of which the plan promises the same at phase 0."""
    plan = planned.plan
    changes = {owner_of(c.name): c for c in plan.changed if c.name.rpartition(".")[2] == "weight"}
    pools = {m.name for m in plan.modules if m.kind.endswith("pool")} if planned.aligned else set()
    found: dict[str, list[LayerProbe]] = {}
    for call in seen.calls:
        scales = planned.arrived.get(call.index, ())
        change = changes.get(call.module)
        if call.module in found or not scales or not all(map(is_whole, scales)):
            continue
        module = model.get_submodule(call.module)
        probe: LayerProbe | None
        if call.kind == "linear" and change is not None and change.kind == "linear-in" and _exact(change):
            probe = _grid_probe(module, call, scales)
        elif call.kind == "conv" and change is not None and change.kind in ("conv", "patch") and _exact(change):
            grows = change.mode == "supersample"
            if grows and not planned.aligned:
                continue
            probe = _image_probe(module, call, scales, grows=grows, channels=_channels(module))
        elif call.kind == "conv" and change is not None and change.kind == "conv" and _interpolated(change):
            found[call.module] = _wave_probes(module, call, change, scales, planned.made_up.get(call.index, ()))
            continue
        elif call.kind.endswith("-pool") and call.module in pools and call.size:
            probe = _image_probe(module, call, scales, grows=True, channels=2)
        else:
            continue
        if probe is not None:
            found[call.module] = [probe]
    return [probe for probes in found.values() for probe in probes]


def first_moved(probes: Sequence[LayerProbe], model: nn.Module) -> tuple[str, float] | None:
    """The first layer that puts a slow wave beside its place, and by how many new pixels; None if none does."""
    for probe in (probe for probe in probes if probe.axis >= 0):
        new = _run(model.get_submodule(probe.module), probe.large)
        if new is None:
            continue
        line, (scale,) = _middle(new, probe.axis), probe.scales
        most = min(probe.answer.shape[-1], int(line.shape[-1] / scale))  # a padding of more may leave one more pixel
        old, *slope = (x[..., :most] for x in (probe.answer, *probe.slope))
        found = displacement(old, line[..., : round(most * scale)], probe.scales, besides=slope)
        off = abs(found[0] - probe.moved) if found else 0.0
        if off > MOVED:
            return probe.module, off
    return None


def first_wrong(probes: Sequence[LayerProbe], model: nn.Module) -> tuple[str, float] | None:
    """The first layer that does something else than the trained one did, and by how much; None if none does."""
    for probe in (probe for probe in probes if probe.axis < 0):
        new = _run(model.get_submodule(probe.module), probe.large)
        if new is None:
            continue
        error = at_phase_0(probe.answer, new, probe.scales) if probe.scales else equal(probe.answer, new)
        if error is not None and not error <= exact_bound(probe.large.dtype):
            return probe.module, error
    return None


def _exact(change: LayerChange) -> bool:
    return all(o.method in _OF_BLOCKS and o.gain == "dc" for o in change.resamplings)


def _interpolated(change: LayerChange) -> bool:
    """Whether a kernel that supersamples is interpolated by a filter that keeps a slope."""
    return change.mode == "supersample" and all(o.method not in _OF_BLOCKS for o in change.resamplings)


def _channels(module: Any) -> int:
    return int(getattr(module, "in_channels", 1))


def _image_probe(
    module: nn.Module, call: LayerCall, scales: Sequence[float], *, grows: bool, channels: int
) -> LayerProbe | None:
    sides = call.by_hand if not call.inside else ()
    mode = call.by_hand_mode
    # At the right border a reflection of repeated pixels is not the repeated reflection.
    if "reflect" in (mode, getattr(module, "padding_mode", "")) or len(call.size) != len(scales):
        return None
    size = [n - sum(sides[axis]) if sides else n for axis, n in enumerate(call.size)]
    small = _noise(module, (1, channels, *size))
    large = repeated(small, scales)
    if large.numel() > _LARGEST:
        return None
    pads = [n for pair in reversed(sides) for n in pair]
    small, large = (F.pad(x, pads, mode=mode) if any(pads) else x for x in (small, large))
    answer = _run(module, small)
    return None if answer is None else LayerProbe(call.module, large, answer, tuple(scales) if grows else ())


def _wave_probes(
    module: Any, call: LayerCall, change: LayerChange, scales: Sequence[float], made_up: Sequence[float]
) -> list[LayerProbe]:
    """A slow wave along each axis, on a strip that is long enough for its inner part to be free of the border.

    An interpolated kernel gives of a slow wave the wave, at the place where the trained kernel gave it. Across the
    strip there are just as many pixels as one output needs, so that wide kernels of a volume stay cheap.
    """
    sides = call.by_hand if not call.inside else ()
    geometry = list(zip(change.geometry, change.new_geometry, strict=True))
    if getattr(module, "padding_mode", "zeros") != "zeros" or any(map(any, sides)) or len(geometry) != len(scales):
        return []
    blur = [0] * len(scales)
    for factor in change.factors:
        blur[factor.axis - len(change.shape)] = factor.new
    across = []
    for (old, new), s, more in zip(geometry, scales, blur, strict=True):
        needed = max(_extent(old), math.ceil((_extent(new) + more) / s))
        across.append(old.stride * -(-needed // old.stride) + 2 * old.stride)
    found = []
    for axis, ((old, _), scale) in enumerate(zip(geometry, scales, strict=True)):
        size = [_LONG * old.stride if i == axis else n for i, n in enumerate(across)]
        new_size = [round(n * s) for n, s in zip(size, scales, strict=True)]
        channels, like = _channels(module), module.weight
        entries = channels * math.prod(new_size) * math.prod(new.kernel for _, new in geometry)
        if entries * like.shape[0] > _MOST or (like.dtype is not torch.float32 and entries > _COLUMNS):
            continue
        small, large = (_strip(like, channels, n, axis) for n in (size, new_size))
        answer, mirrored = _run(module, small), _run_mirrored(module, small, axis)
        if answer is not None and mirrored is not None and answer.ndim == len(scales) + 2:
            moved = (made_up[axis] if made_up else 0.0) / old.stride
            line, slope = _middle(answer, axis), _middle(answer - mirrored, axis)
            found.append(LayerProbe(call.module, large, line, (scale,), axis, moved, (slope,)))
    return found


def _run_mirrored(module: nn.Module, x: Tensor, axis: int) -> Tensor | None:
    """What a layer gives with its kernel mirrored along an axis; None where its weight cannot be set."""
    weight = module._parameters.get("weight")
    if weight is None:
        return None
    kept = weight.data
    try:
        weight.data = kept.flip(axis + 2)
        return _run(module, x)
    finally:
        weight.data = kept


def _extent(geometry: AxisGeometry) -> int:
    """Pixels that a kernel covers."""
    return (geometry.kernel - 1) * geometry.dilation + 1


def _strip(like: Tensor, channels: int, size: Sequence[int], axis: int) -> Tensor:
    """A slow wave along one axis, the same at every place across."""
    wave = waves((1, channels), (size[axis],), 1.0, torch.Generator().manual_seed(0))
    along = [-1 if i == axis else 1 for i in range(len(size))]
    return wave.to(like.device, like.dtype).reshape(1, channels, *along).expand(1, channels, *size).contiguous()


def _middle(x: Tensor, axis: int) -> Tensor:
    """The line along one axis through the middle of the others."""
    for other in reversed(range(x.ndim - 2)):
        if other != axis:
            x = x.select(other + 2, x.shape[other + 2] // 2)
    return x


def _grid_probe(module: nn.Module, call: LayerCall, scales: Sequence[float]) -> LayerProbe | None:
    if len(call.grid) != len(scales) + 1 or not call.order:
        return None
    small = _noise(module, (1, *call.grid))
    large = repeated(small, scales)
    last = call.order == "channels-last"
    small, large = ((x.movedim(1, -1) if last else x).flatten(1) for x in (small, large))
    answer = _run(module, small)
    return None if answer is None else LayerProbe(call.module, large, answer)


def _noise(module: nn.Module, shape: Sequence[int]) -> Tensor:
    like = next(module.parameters(), None)
    made = random_like(shape, torch.float32, 0)
    return made if like is None else made.to(like.device, like.dtype)


def _run(module: nn.Module, x: Tensor) -> Tensor | None:
    """What a layer gives; None where it gives something else than one tensor, or does not run by itself."""
    with own_precision(), evaluating(module), torch.no_grad():
        try:
            out = module(x)
        except Exception:  # a layer may ask for more than an image
            return None
    out = out[0] if isinstance(out, tuple) else out
    return out.detach() if isinstance(out, Tensor) and out.is_floating_point() else None
