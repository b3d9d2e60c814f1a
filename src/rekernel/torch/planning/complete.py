"""Complete a plan that was made from a checkpoint alone, with what the model shows into which it is loaded.

Scope: explicit padding in the model's code, poolings, and strides or paddings that the plan assumed and the model
contradicts. Not here: what becomes of a layer (see `planning.rules`), and changing the model (see `torch.editing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ...errors import Option, RekernelError
from ...escape import shown
from ...plan.changes import LayerChange
from ...plan.plan import Plan
from ...planning.layers import PoolBecame
from ...planning.pooling import pooling
from ...planning.roles import ABSORB
from ...planning.rules import offset_note
from ...resampling.geometry import is_whole
from ..layers.module_names import owner_of
from ..layers.padding import own_padding
from .pools import POOLS, pool_axes


def completed(plan: Plan, model: nn.Module, files: Mapping[str, str]) -> Plan:
    """The plan, completed with explicit padding and poolings of the model. A plan made by tracing is returned as it is.

    Parameters
    ----------
    files : mapping of str to str
        For the name of each tensor in the model, its name in the file.

    Raises
    ------
    RekernelError
        If a layer has another stride, padding or dilation than the plan assumed.
    """
    if plan.origin == "trace":  # it saw the model run
        return plan
    changes = tuple(_fitted(_restrided(change, model), plan, model, files) for change in plan.changes)
    pools = _pools(plan, model)
    notes = (offset_note(pool.change.name, pool.offset) for pool in pools)
    return replace(
        plan,
        changes=changes,
        modules=(*plan.modules, *(pool.change for pool in pools)),
        warnings=(*plan.warnings, *filter(None, notes)),
    )


def _restrided(change: LayerChange, model: nn.Module) -> LayerChange:
    """The change of a layer that absorbs, with the stride and padding that the layer really has.

    The new kernel of an absorbing layer does not depend on them where the scale is whole, so a plan from names alone
    need not know them.
    """
    layer: Any = model.get_submodule(owner_of(change.name))
    area = all(o.method in ("area", "nearest") and is_whole(o.scale) for o in change.operators)
    if change.mode != ABSORB or change.kind != "conv" or not area or not isinstance(layer, nn.modules.conv._ConvNd):
        return change
    scales = {o.axis: o.scale for o in change.operators}
    first = len(change.view) - len(change.geometry)
    before, after = [], []
    for axis, (old, own) in enumerate(zip(change.geometry, own_padding(layer), strict=True)):
        if (layer.kernel_size[axis], layer.dilation[axis]) != (old.kernel, old.dilation):
            return change
        scale = round(scales.get(first + axis, 1.0))
        actual = replace(old, stride=layer.stride[axis], padding=own)
        before.append(actual)
        new = change.new_geometry[axis]
        after.append(replace(new, stride=actual.stride * scale, padding=(own[0] * scale, own[1] * scale)))
    return replace(change, geometry=tuple(before), new_geometry=tuple(after))


def _fitted(change: LayerChange, plan: Plan, model: nn.Module, files: Mapping[str, str]) -> LayerChange:
    """The change, checked against the layer. Padding that the family adds in its own code is moved to `by_hand`."""
    layer: Any = model.get_submodule(owner_of(change.name))
    if change.kind not in ("conv", "conv-transpose", "patch") or not isinstance(layer, nn.modules.conv._ConvNd):
        return change
    own = own_padding(layer)
    by_hand = []
    for axis, assumed in enumerate(change.geometry):
        hand = assumed.padding[0] - own[axis][0], assumed.padding[1] - own[axis][1]
        stride, dilation = layer.stride[axis], layer.dilation[axis]
        if (assumed.stride, assumed.dilation) != (stride, dilation) or (
            any(hand) and (not plan.recognised or min(hand) < 0)
        ):
            name = shown(owner_of(files.get(change.name, change.name)))
            pad = own[axis][0]
            told = {"stride": stride, "padding": pad} | ({"dilation": dilation} if dilation != 1 else {})
            flags = " ".join(f"--{what} {name}={value}" for what, value in told.items())
            hints = ", ".join(f"{what}={{{name!r}: {value}}}" for what, value in told.items())
            raise RekernelError(
                f"{shown(change.name)}: was converted for stride {assumed.stride}, padding {assumed.padding}, dilation "
                f"{assumed.dilation}, but the layer has stride {stride}, padding {own[axis]}, dilation {dilation}; "
                f"convert again with {flags} (hints=Hints({hints})), or use rekernel.torch.rescale"
            )
        by_hand.append(hand)
    if not any(any(hand) for hand in by_hand):
        return change
    after = tuple(
        replace(g, padding=(g.padding[0] - left, g.padding[1] - right))
        for g, (left, right) in zip(change.new_geometry, by_hand, strict=True)
    )
    return replace(change, new_geometry=after, by_hand=tuple(by_hand))


def _pools(plan: Plan, model: nn.Module) -> list[PoolBecame]:
    """Rescale the poolings that lie among convolutions that supersample. Behind one that absorbs, the grid is old."""
    grown = {owner_of(c.name): c for c in plan.changed if c.kind == "conv" and c.mode != ABSORB}
    spatial = {
        name: module for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and max(module.kernel_size) > 1
    }  # fmt: skip
    found = []
    for name, module in model.named_modules():
        kind = POOLS.get(type(module))
        if kind is None or not _stands_among(name, set(spatial), set(grown)):
            continue
        dims = int(type(module).__name__[-2])
        scales = plan.scale if isinstance(plan.scale, tuple) else (plan.scale,) * dims
        scales = (1.0,) * (dims - len(scales)) + scales[-dims:]
        axes = pool_axes(module, scales)
        if _ends_grid(name, plan, model):
            axes = [replace(axis, scale_out=1.0) for axis in axes]
        try:
            found.append(pooling(name, kind, axes))
        except RekernelError as error:
            again = "; convert again with ", Option("mode='absorb'", "--mode absorb"), ", with which poolings stay"
            raise RekernelError(f"{shown(name)}: ", *error.args, *again) from None
    return found


def _ends_grid(name: str, plan: Plan, model: nn.Module) -> bool:
    """Whether linear layers of the trained size read what a pooling gives: then it absorbs the scale."""
    names = [other for other, _ in model.named_modules()]
    after = [model.get_submodule(other) for other in names[names.index(name) + 1 :]]
    linear = [module for module in after if isinstance(module, nn.Linear)]
    spatial = any(isinstance(m, nn.modules.conv._ConvNd) or type(m).__name__.startswith("Adaptive") for m in after)
    return bool(linear) and not spatial and not any(change.kind == "linear-in" for change in plan.changed)


def _stands_among(name: str, spatial: set[str], grown: set[str]) -> bool:
    """Whether all convolutions are rescaled in the smallest submodule that holds this pooling and a convolution."""
    while name:
        name = owner_of(name)
        inside = {n for n in spatial if not name or n.startswith(f"{name}.")}
        if inside:
            return inside <= grown
    return False
