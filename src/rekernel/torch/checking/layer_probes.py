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

from ...plan.changes import LayerChange
from ...plan.plan import Plan
from ...resampling.geometry import is_whole
from ..layers.module_names import owner_of
from ..planning.planner import Planned
from ..surroundings import own_precision
from ..tracing.eval_mode import evaluating
from ..tracing.layer_call import LayerCall
from ..tracing.run import Trace
from .deviations import at_phase_0, displacement, equal
from .probes import waves

_ROUNDING = 1e-4
_LARGEST = 1 << 24  # entries of a probe
_WIDE = {1: 128, 2: 64, 3: 28}  # least pixels of a slow wave along an axis, by the number of axes
MOVED = 0.1
"""Bound on how far a layer moves a slow wave beside the place that its geometry gives, in new pixels."""
_BLURS = ("reflect",)  # a reflection of repeated pixels is not the repeated reflection at the right border


@dataclass(frozen=True)
class LayerProbe:
    """A probe of one layer.

    module : path of the layer
    large : the input at the new size
    answer : the output of the trained layer on the input at the trained size
    scales : new pixels per old pixel; empty where the output keeps its size
    offset : how far the layer moves a slow wave, in new pixels of its output; empty where it is exact at phase 0
    """

    module: str
    large: Tensor
    answer: Tensor
    scales: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()


def layer_probes(model: nn.Module, plan: Plan, seen: Trace, planned: Planned) -> list[LayerProbe]:
    """The answers of the trained layers of which the plan promises the same at phase 0."""
    changes = {owner_of(c.name): c for c in plan.changed if c.name.rpartition(".")[2] == "weight"}
    pools = {m.name for m in plan.modules if m.kind.endswith("pool")} if planned.aligned else set()
    found: dict[str, LayerProbe] = {}
    for call in seen.calls:
        scales = planned.arrived.get(call.index, ())
        change = changes.get(call.module)
        if call.module in found or not scales or not all(map(is_whole, scales)):
            continue
        module = model.get_submodule(call.module)
        if call.kind == "linear" and change is not None and change.kind == "linear-in" and _exact(change):
            probe = _grid_probe(module, call, scales)
        elif call.kind == "conv" and change is not None and change.kind in ("conv", "patch") and _exact(change):
            grows = change.mode == "supersample"
            if grows and not planned.aligned:
                continue
            probe = _image_probe(module, call, scales, grows=grows, channels=_channels(module))
        elif call.kind == "conv" and change is not None and change.kind == "conv" and _interpolated(change):
            probe = _wave_probe(module, call, scales, planned.made_up.get(call.index, ()))
        elif call.kind.endswith("-pool") and call.module in pools and call.size:
            probe = _image_probe(module, call, scales, grows=True, channels=2)
        else:
            continue
        if probe is not None:
            found[call.module] = probe
    return list(found.values())


def first_moved(probes: Sequence[LayerProbe], model: nn.Module) -> tuple[str, float] | None:
    """The first layer that puts a slow wave beside its place, and by how many new pixels; None if none does."""
    for probe in probes:
        new = _run(model.get_submodule(probe.module), probe.large) if probe.offset else None
        found = displacement(probe.answer, new, probe.scales) if new is not None else None
        off = max((abs(d - o) for d, o in zip(found or (), probe.offset, strict=False)), default=0.0)
        if off > MOVED:
            return probe.module, off
    return None


def first_wrong(probes: Sequence[LayerProbe], model: nn.Module) -> tuple[str, float] | None:
    """The first layer that does something else than the trained one did, and by how much; None if none does."""
    for probe in probes:
        if probe.offset:
            continue
        new = _run(model.get_submodule(probe.module), probe.large)
        if new is None:
            continue
        error = at_phase_0(probe.answer, new, probe.scales) if probe.scales else equal(probe.answer, new)
        bound = max(_ROUNDING, 32 * torch.finfo(probe.large.dtype).eps)
        if error is not None and not error <= bound:
            return probe.module, error
    return None


def _exact(change: LayerChange) -> bool:
    used = (*change.operators, *change.factors)
    return all(o.method in ("dilate", "area", "nearest") for o in used) and all(o.gain == "dc" for o in used)


def _interpolated(change: LayerChange) -> bool:
    """Whether a kernel that supersamples is interpolated by a filter that keeps a slope."""
    used = (*change.operators, *change.factors)
    return change.mode == "supersample" and all(o.method not in ("dilate", "area", "nearest") for o in used)


def _channels(module: Any) -> int:
    return int(getattr(module, "in_channels", 1))


def _image_probe(
    module: nn.Module, call: LayerCall, scales: Sequence[float], *, grows: bool, channels: int
) -> LayerProbe | None:
    sides = call.by_hand if not call.inside else ()
    mode = call.by_hand_mode
    if mode in _BLURS or getattr(module, "padding_mode", "zeros") in _BLURS or len(call.size) != len(scales):
        return None
    size = [n - sum(sides[axis]) if sides else n for axis, n in enumerate(call.size)]
    small = _noise(module, (1, channels, *size))
    large = _repeated(small, scales, first=2)
    if large.numel() > _LARGEST:
        return None
    pads = [n for pair in reversed(sides) for n in pair]
    small, large = (F.pad(x, pads, mode=mode) if any(pads) else x for x in (small, large))
    answer = _run(module, small)
    return None if answer is None else LayerProbe(call.module, large, answer, tuple(scales) if grows else ())


def _wave_probe(module: Any, call: LayerCall, scales: Sequence[float], made_up: Sequence[float]) -> LayerProbe | None:
    """Slow waves, on a grid that is large enough for its inner part to be free of the border.

    An interpolated kernel gives of a slow wave the wave, at the place where the trained kernel gave it.
    """
    sides = call.by_hand if not call.inside else ()
    if getattr(module, "padding_mode", "zeros") != "zeros" or len(call.size) != len(scales) or any(map(any, sides)):
        return None
    strides = tuple(module.stride)
    size = [n + t * max(0, -(-(_WIDE[len(strides)] - n) // t)) for n, t in zip(call.size, strides, strict=True)]
    new = [round(n * s) for n, s in zip(size, scales, strict=True)]
    if _channels(module) * math.prod(new) > _LARGEST:
        return None
    channels, like = _channels(module), module.weight
    small, large = (
        waves((1, channels), n, 1.0, torch.Generator().manual_seed(0)).to(like.device, like.dtype) for n in (size, new)
    )
    answer = _run(module, small)
    moved = tuple(o / t for o, t in zip(made_up or (0.0,) * len(strides), strides, strict=True))
    return None if answer is None else LayerProbe(call.module, large, answer, tuple(scales), moved)


def _grid_probe(module: nn.Module, call: LayerCall, scales: Sequence[float]) -> LayerProbe | None:
    if len(call.grid) != len(scales) + 1 or not call.order:
        return None
    small = _noise(module, (1, *call.grid))
    large = _repeated(small, scales, first=2)
    last = call.order == "channels-last"
    small, large = ((x.movedim(1, -1) if last else x).flatten(1) for x in (small, large))
    answer = _run(module, small)
    return None if answer is None else LayerProbe(call.module, large, answer)


def _noise(module: nn.Module, shape: Sequence[int]) -> Tensor:
    like = next(module.parameters(), None)
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return made if like is None else made.to(like.device, like.dtype)


def _repeated(x: Tensor, scales: Sequence[float], *, first: int) -> Tensor:
    for axis, scale in enumerate(scales, first):
        x = x.repeat_interleave(round(scale), axis)
    return x


def _run(module: nn.Module, x: Tensor) -> Tensor | None:
    """What a layer gives; None where it gives something else than one tensor, or does not run by itself."""
    with own_precision(), evaluating(module), torch.no_grad():
        try:
            out = module(x)
        except Exception:  # a layer may ask for more than an image
            return None
    out = out[0] if isinstance(out, tuple) else out
    return out.detach() if isinstance(out, Tensor) and out.is_floating_point() else None
