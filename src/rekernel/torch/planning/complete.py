"""Complete a plan that was made from a checkpoint alone, with what the model shows into which it is loaded.

Scope: explicit padding in the model's code, poolings, and strides or paddings that the plan assumed and the model
contradicts. Not here: what becomes of a layer (see `planning.rules`), and changing the model (see `torch.editing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ...errors import Option, RekernelError
from ...escape import shown
from ...plan.changes import LayerChange
from ...plan.plan import Plan
from ...planning.layers import PoolBecame
from ...planning.other_padding import with_padding
from ...planning.pooling import pooling
from ...planning.roles import ABSORB
from ...planning.rules import offset_note
from ...resampling.geometry import is_whole
from ..layers.module_names import owner_of
from ..layers.own_forward import examined, has_own_forward
from ..layers.padding import Sides, own_padding
from ..layers.padding_modules import Padding, bare_note, padding_modules, paddings_in_front, unplaced_note
from .own_calls import own_notes
from .pools import POOLS, pool_axes


def completed(plan: Plan, model: nn.Module, files: Mapping[str, str]) -> Plan:
    """The plan, completed with explicit padding and poolings of the model. A plan made by tracing is returned as it is.

    So is a completed one, which a file has that was saved from a loaded model.

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
    front = paddings_in_front(model)
    changes = tuple(_fitted(_restrided(change, model, front), plan, model, files, front) for change in plan.changes)
    pools = _pools(plan, model, front)
    notes = (offset_note(pool.change.name, pool.offset) for pool in pools)
    return replace(
        plan,
        origin="trace",  # it has the names of the model now, and everything that the model shows
        changes=changes,
        modules=(*plan.modules, *(pool.change for pool in pools)),
        warnings=(
            *plan.warnings,
            *filter(None, notes),
            *_notes(changes, model),
            *_unseen(changes, pools, model, front),
        ),
    )


def _unseen(
    changes: Sequence[LayerChange], pools: Sequence[PoolBecame], model: nn.Module, front: Mapping[str, Padding]
) -> list[str]:
    """Notes about padding that may lie in front of a layer that changes, which neither names nor modules show."""
    convs = {owner_of(c.name): c for c in changes if c.kind in ("conv", "patch")}
    grows = any(not c.kept and c.mode != ABSORB for c in changes)
    taken = {path for path, c in convs.items() if not c.kept} | {pool.change.name for pool in pools}
    # A layer that is left out on purpose keeps its padding, but a pointwise one passes the grid on.
    taken |= {path for path in front if path not in taken and not _is_pointwise(model.get_submodule(path))}
    placed = {front[path].path for path in taken & set(front)}
    loose = [path for path in padding_modules(model) if path not in placed]
    bare = [
        path for path, c in convs.items()
        if not c.kept and c.kind == "conv" and not c.by_hand and not any(any(g.padding) for g in c.geometry)
        and any(1 < g.kernel != g.stride for g in c.geometry)
    ]  # fmt: skip
    if loose and (grows or bare):
        return [unplaced_note(loose)]
    return [bare_note(bare)] if bare else []


def _is_pointwise(layer: Any) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd) and max(layer.kernel_size) == max(layer.stride) == 1


def _notes(changes: Sequence[LayerChange], model: nn.Module) -> list[str]:
    """Notes about the layers with a forward method of their own that change, which no name tells."""
    own, prepared = {}, []
    for change in changes:
        path = owner_of(change.name)
        layer = None if change.kept else model.get_submodule(path)
        if isinstance(layer, nn.modules.conv._ConvNd) and has_own_forward(layer):
            own[path] = layer, examined(layer)
            if change.mode == ABSORB and own[path][1].prepares:
                prepared.append(
                    f"{shown(path)}: its forward method changes the image before the convolution absorbs the scale, "
                    f"which may lose detail; rekernel.torch.rescale finds out"
                )
    return [*own_notes(own), *prepared]


def _restrided(change: LayerChange, model: nn.Module, front: Mapping[str, Padding]) -> LayerChange:
    """The change of a layer that absorbs, with the stride and padding that the layer really has.

    The new kernel of an absorbing layer does not depend on them where the scale is whole, so a plan from names alone
    need not know them.
    """
    layer: Any = model.get_submodule(owner_of(change.name))
    ahead = front.get(owner_of(change.name))
    if change.mode == ABSORB and ahead is not None and ahead.mode not in ("constant", "circular"):
        raise RekernelError(
            f"{shown(change.name)}: absorbs the scale behind {shown(ahead.path)}, a {ahead.kind}, which repeats pixels "
            f"of the larger image; use rekernel.torch.rescale, which resamples the image in front of the model"
        )
    area = all(o.method in ("area", "nearest") and is_whole(o.scale) for o in change.operators)
    if change.mode != ABSORB or change.kind != "conv" or not area or not isinstance(layer, nn.modules.conv._ConvNd):
        return change
    scales = {o.axis: o.scale for o in change.operators}
    first = len(change.view) - len(change.geometry)
    before, after = [], []
    padding = _sums(_all_padding(layer)[0], ahead.sides if ahead else ())
    for axis, (old, own) in enumerate(zip(change.geometry, padding, strict=True)):
        if (layer.kernel_size[axis], layer.dilation[axis]) != (old.kernel, old.dilation):
            return change
        scale = round(scales.get(first + axis, 1.0))
        actual = replace(old, stride=layer.stride[axis], padding=own)
        before.append(actual)
        new = change.new_geometry[axis]
        after.append(replace(new, stride=actual.stride * scale, padding=(own[0] * scale, own[1] * scale)))
    return replace(change, geometry=tuple(before), new_geometry=tuple(after))


def _fitted(
    change: LayerChange, plan: Plan, model: nn.Module, files: Mapping[str, str], front: Mapping[str, Padding]
) -> LayerChange:
    """The change, checked against the layer. Padding in front, by a module or in the family's code, is `by_hand`."""
    layer: Any = model.get_submodule(owner_of(change.name))
    if change.kind not in ("conv", "conv-transpose", "patch") or not isinstance(layer, nn.modules.conv._ConvNd):
        return change
    own, by_class = _all_padding(layer)
    ahead = front.get(owner_of(change.name)) if change.kind != "conv-transpose" else None
    seen = _sums(own, ahead.sides if ahead else ())
    known = plan.recognised and ahead is None
    change = with_padding(change, seen) or change if ahead is not None else change
    by_hand = []
    for axis, assumed in enumerate(change.geometry):
        hand = assumed.padding[0] - own[axis][0], assumed.padding[1] - own[axis][1]
        stride, dilation = layer.stride[axis], layer.dilation[axis]
        by_family = known and min(hand) >= 0
        if (assumed.stride, assumed.dilation) != (stride, dilation) or not (by_family or assumed.padding == seen[axis]):
            name = shown(owner_of(files.get(change.name, change.name)))
            pad = seen[axis][0] if seen[axis][0] == seen[axis][1] else seen[axis]
            less = ", which also sees padding in front of the layer" if sum(hand) > 0 else ""
            told = {"stride": stride, "padding": pad} | ({"dilation": dilation} if dilation != 1 else {})
            flags = " ".join(
                f"--{what} {name}={str(value).strip('()').replace(' ', '')}" for what, value in told.items()
            )
            hints = ", ".join(f"{what}={{{name!r}: {value}}}" for what, value in told.items())
            raise RekernelError(
                f"{shown(change.name)}: was converted for stride {assumed.stride}, padding {assumed.padding}, dilation "
                f"{assumed.dilation}, but the layer has stride {stride}, padding {seen[axis]}, dilation {dilation}; "
                f"convert again with ",
                Option(f"hints=Hints({hints})", flags),
                f", or use rekernel.torch.rescale{less}",
            )
        by_hand.append(hand)
    if not any(any(hand) for hand in (*by_hand, *by_class)):
        return change
    redone = ahead is not None and ahead.mode != "constant"  # then the layer takes this padding away and pads again
    after = tuple(
        replace(g, padding=(g.padding[0] - left * (not redone) - before, g.padding[1] - right * (not redone) - behind))
        for g, (left, right), (before, behind) in zip(change.new_geometry, by_hand, by_class, strict=True)
    )
    outside = tuple(by_hand) if any(map(any, by_hand)) else ()
    mode = ahead.mode if ahead is not None and redone else ""
    return replace(change, new_geometry=after, by_hand=outside, by_hand_mode=mode)


def _sums(one: Sides, other: Sides) -> Sides:
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(one, other, strict=True)) if other else one


def _all_padding(layer: Any) -> tuple[Sides, Sides]:
    """All padding that a layer does, and the part that its own forward method goes on adding when it is rescaled."""
    own = own_padding(layer)
    found = examined(layer) if has_own_forward(layer) else None
    if found is None or not found.pads:
        return own, ((0, 0),) * len(own)
    return _sums(own, found.pads), ((0, 0),) * len(own) if found.replaced else found.pads


def _pools(plan: Plan, model: nn.Module, front: Mapping[str, Padding]) -> list[PoolBecame]:
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
        ahead = front.get(name)
        try:
            if ahead is not None and ahead.mode != "constant":
                raise RekernelError(f"behind {shown(ahead.path)}, a {ahead.kind}, which does not grow with the image")
            became = pooling(name, kind, axes)
            by_hand = ahead.sides if ahead is not None else ()
            found.append(replace(became, change=replace(became.change, by_hand=by_hand)))
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
