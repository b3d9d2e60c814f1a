"""Carry out a plan on a module: build all new layers first, then put them in.

Scope: changes and layers. Not here: what to change, which a plan says (see `torch.planning.planner` and `plan.recipe`),
and undoing a change (see `torch.editing.edits`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import shown
from ...messages.arguments import check_instance
from ...messages.warn import tell
from ...plan.changes import LayerChange, ModuleChange
from ...plan.not_finite import not_finite_note
from ...plan.plan import Plan
from ...resampling.methods import canonical_method
from ...resampling.operators import kernel_operator
from ..checked_arguments import check_module
from ..files.save_pretrained import stand_in
from ..layers.dense import dense_conv, dilated_conv, linear
from ..layers.enlarge import Enlarge
from ..layers.factored import FactoredConv, FactoredConvTranspose
from ..layers.module_names import owner_of
from ..layers.pools import AVG_POOLS, MAX_POOLS, pool
from ..layers.prefixes import prefix_between
from ..layers.resample_image import resampler
from ..layers.same_class import PadInput
from ..marks import PLAN as PLAN
from ..marks import SAVE
from ..planning.held_sizes import held_sizes
from ..surroundings import in_format_of, own_tensors
from ..wrapped import refuse_wrapped
from .edits import Edits
from .held_sizes import set_position_ids, set_sizes
from .memory import refuse_too_large
from .own_layers import bake_computed, way_of
from .windows import enlarge_window


def apply_plan(model: nn.Module, plan: Plan, *, weights: bool = True) -> nn.Module:
    """Change the layers of `model` in place as `plan` says. If this raises, the model is unchanged.

    Parameters
    ----------
    weights : bool
        Resample the weights, too. False gives layers of the right geometry with empty weights, for loading.

    Returns
    -------
    nn.Module
        The same model; a new one only if `model` is a single layer.
    """
    check_module(model)
    refuse_wrapped(model, "change")
    check_instance(plan, Plan, "plan", "pass what plan_checkpoint returned, or Plan.from_json(text)")
    with own_tensors(), Edits(model) as edits:
        carry_out(edits, plan, weights=weights)
    return edits.model


def carry_out(edits: Edits, plan: Plan, *, weights: bool) -> None:
    """Do the same as `apply_plan`, as a part of `edits`, which may hold other changes."""
    refuse_too_large(plan, {n: t for n, t in edits.model.state_dict().items() if isinstance(t, Tensor)})
    for m in plan.modules:
        if m.kind == "bake":
            bake_computed(edits, _module(edits.model, m.name, plan), m.name)
    new: dict[int, tuple[nn.Module, nn.Module]] = {}
    padded: list[tuple[nn.Module, PadInput]] = []
    parameters: dict[int, nn.Parameter] = {}
    found: list[str] = []
    values: list[tuple[nn.Module, str, nn.Parameter]] = []
    for change in plan.changed:
        old = _module(edits.model, owner_of(change.name), plan)
        leaf = change.name.rpartition(".")[2]
        before = getattr(old, leaf, None)
        if not isinstance(before, nn.Parameter):
            raise _of_another_model(change.name, "is not a parameter of the model", edits.model, plan)
        if tuple(before.shape) != change.shape:
            raise RekernelError(
                f"{shown(change.name)}: has shape {tuple(before.shape)}, but the plan expects {change.shape}; the plan "
                f"is for another model"
            )
        if not change.factors and id(before) not in parameters:  # tied weights stay tied
            parameters[id(before)] = _new_parameter(before, change, weights, found)
        if id(old) in new:
            continue  # the same module under another name
        if change.kind == "values" or (change.kind == "linear-out" and leaf == "bias"):
            values.append((old, leaf, parameters[id(before)]))
            continue
        _check_layer(old, change)
        weight = before if change.factors else parameters[id(before)]
        way = way_of(old, change, weight)
        if way.kept is not None:
            made = way.kept
        else:
            made = _factored(way.base, change) if change.factors else _dense(way.base, change, weight)
        new[id(old)] = old, made
        if way.hook is not None:
            made.register_forward_pre_hook(way.hook, with_kwargs=True)  # for a caller that undoes the edits
            padded.append((made, way.hook))
    modules = [(_module(edits.model, m.name, plan), m) for m in plan.modules]
    pools = [(old, pool(old, m)) for old, m in modules if m.kind.endswith("pool") and _known(old, m)]
    for old, made in (*new.values(), *pools):
        edits.replace(old, made)
    for layer, hook in padded:
        edits.hook(layer, hook, with_kwargs=True)
    for owner, leaf, parameter in values:
        edits.set_parameter(owner, leaf, parameter)
    for old, m in modules:
        if m.kind == "upsample":
            edits.set(old, "size", tuple(g.kernel for g in m.new_geometry))
        elif m.kind == "unflatten":
            edits.set(old, "unflattened_size", unflattened_size(getattr(old, "unflattened_size", ()), m))
        elif m.kind == "layer-norm":
            edits.set(old, "normalized_shape", normalized_shape(getattr(old, "normalized_shape", ()), m))
        elif m.kind == "enlarge":
            edits.hook(_module(edits.model, m.name, plan), Enlarge(m))
        elif m.kind == "window":
            enlarge_window(edits, m)
    if (resample := resampler(plan)) is not None:
        edits.hook(edits.model, resample, with_kwargs=True)
    tell([not_finite_note(found)] if found else [])
    edits.set(edits.model, PLAN, plan)
    if not plan.empty and (saving := stand_in(edits.model)) is not None:
        edits.set(edits.model, SAVE, saving)


def announce(edits: Edits, plan: Plan, size: tuple[int, ...] = (), scales: tuple[float, ...] = ()) -> None:
    """Give modules the new sizes that they hold beside their weights: of the image, of patches, of grids of tokens.

    Parameters
    ----------
    size, scales : tuple, optional
        Pixels of the trained image and scale along each axis, where these are not those of the plan.
    """
    seen = replace(plan, size=size or plan.size, scale=scales or plan.scale)
    set_sizes(edits, held_sizes(edits.model, seen).sizes)
    set_position_ids(edits, plan.changed)


def _dense(old: Any, change: LayerChange, weight: nn.Parameter) -> nn.Module:
    if change.kind in ("linear-in", "linear-out"):
        return linear(old, weight)
    return dense_conv(
        old, weight, change.new_geometry, padding_mode=change.padding_mode, by_hand=change.by_hand,
        by_hand_mode=change.by_hand_mode or "constant",
    )  # fmt: skip


def _check_layer(old: Any, change: LayerChange) -> None:
    """Raise if the layer is not of the kind that the plan changes."""
    if change.kind in ("linear-in", "linear-out"):
        if not isinstance(old, nn.Linear):
            raise RekernelError(
                f"{shown(change.name)}: belongs to a {type(old).__name__}, not to a linear layer; the plan is for "
                f"another model"
            )
        return
    if not isinstance(old, nn.modules.conv._ConvNd):
        raise RekernelError(
            f"{shown(change.name)}: belongs to a {type(old).__name__}, not to a convolution; the plan is for another "
            f"model"
        )
    axes = len(old.kernel_size)
    if any(len(g) not in (0, axes) for g in (change.geometry, change.new_geometry)):
        raise RekernelError(
            f"{shown(change.name)}: this layer has {axes} spatial axes, but the plan's geometry has another number; "
            f"the plan is for another model"
        )
    if not change.new_geometry:
        raise RekernelError(
            f"{shown(change.name)}: the plan has no new geometry (stride, padding) for this {type(old).__name__}; plan "
            f"again"
        )


def _known(old: nn.Module, change: ModuleChange) -> bool:
    known = next((known for known in (*MAX_POOLS, *AVG_POOLS) if isinstance(old, known)), None)
    if known is None:
        raise RekernelError(
            f"{shown(change.name)}: belongs to a {type(old).__name__}, not to a pooling; the plan is for another model"
        )
    axes, each = int(known.__name__[-2]), (*change.geometry, *change.new_geometry)
    fits = len(change.geometry) == len(change.new_geometry) == axes and len(change.by_hand) in (0, axes)
    if not fits or min(min(g.kernel, g.stride, g.dilation) for g in each) < 1:
        raise RekernelError(
            f"{shown(change.name)}: this pooling has {axes} spatial axes, with windows and strides of 1 or more, "
            f"but the plan's geometry does not fit; the plan is for another model"
        )
    return True


def _new_parameter(weight: nn.Parameter, change: LayerChange, resample: bool, found: list[str]) -> nn.Parameter:
    if resample and weight.device.type != "meta":
        data: Tensor = change.apply(weight.detach())
        if not _refuse_overflow(data, weight, change):
            found.append(change.name)
    else:
        data = weight.new_empty(change.new_shape)
    return nn.Parameter(in_format_of(weight, data), requires_grad=weight.requires_grad)


def _refuse_overflow(data: Tensor, weight: Tensor, change: LayerChange) -> bool:
    """Raise if a finite value became infinite when it was rounded to a dtype below float64.

    Returns
    -------
    finite : bool
        Whether all values are finite. Where they are not, those that they were computed from are not either.
    """
    if not data.is_floating_point() or (finite := data.isfinite()).all():
        return True
    if data.dtype != torch.float64:
        lost = change.apply(weight.detach().double())[~finite]
        if lost.isfinite().any():
            value, name = float(lost[lost.isfinite()][0]), str(data.dtype).removeprefix("torch.")
            wider = "bfloat16 or float32" if data.dtype == torch.float16 else "a wider dtype"
            raise RekernelError(
                f"{shown(change.name)}: value {value:.6g} is beyond {name}'s {torch.finfo(data.dtype).max:g}; convert "
                f"the model to {wider} first"
            )
    return False


def _factored(old: Any, change: LayerChange) -> nn.Module:
    """The factored form of a layer. The blur along each axis is the rescaled kernel of a single tap."""
    if all(o.method == "dilate" and o.gain == "dc" for o in change.factors) and not change.by_hand:
        spread_by = {o.axis - 2: round(o.scale) for o in change.factors}
        plain = dilated_conv(old, change.new_geometry, spread_by, padding_mode=change.padding_mode)
        if plain is not None:
            return plain
    return smoothing_layer(old, change, old.weight.dtype)


def smoothing_layer(old: Any, change: LayerChange, dtype: torch.dtype) -> FactoredConv | FactoredConvTranspose:
    """The factored form of a layer, with a blur of the given dtype; a blur of one tap where the method is 'dilate'."""
    by_axis = {o.axis - 2: o for o in change.factors}
    filters, spread = [], []
    for axis, before in enumerate(change.geometry):
        o = by_axis.get(axis)
        scale = round(o.scale) if o else 1
        spread.append(before.dilation * scale)
        length = o.new - spread[-1] * (before.kernel - 1) if o else 1
        taps = [[1.0]]
        if o and o.method != "dilate":
            taps = kernel_operator(
                1,
                o.scale,
                canonical_method(o.method),
                taps=length,
                gain=o.gain,
                phase=o.phase,
                a=o.a,
                smoothness=o.smoothness,
            ).tolist()
        elif o and o.gain != "dc":
            taps = [[1.0 / o.scale if o.gain == "ratio" else 1.0]]
        device = None if old.weight.device.type == "meta" else old.weight.device  # a blur has values even on meta
        taps_of_axis = torch.tensor(taps, dtype=torch.float64, device="cpu").reshape(-1)
        filters.append(taps_of_axis.to(device, dtype))
    sides = tuple(g.padding for g in change.new_geometry)
    geometry: dict[str, Any] = {"stride": [g.stride for g in change.new_geometry], "spread": spread}
    geometry |= {"dilation": [g.dilation for g in change.geometry], "sides": sides, "groups": old.groups}
    transposed: bool = isinstance(old, nn.modules.conv._ConvTransposeNd)
    if transposed:
        return FactoredConvTranspose(old.weight, old.bias, filters, **geometry)
    new = FactoredConv(
        old.weight, old.bias, filters, padding_mode=change.padding_mode or old.padding_mode,
        by_hand=change.by_hand, by_hand_mode=change.by_hand_mode or "constant", **geometry,
    )  # fmt: skip
    if change.by_hand:
        new.keep_attributes(old)
    return new


def _module(model: nn.Module, path: str, plan: Plan) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise _of_another_model(
            path, "the plan names this layer, but the model has none of that name", model, plan
        ) from None


def _of_another_model(name: str, what: str, model: nn.Module, plan: Plan) -> RekernelError:
    """The error for a plan whose names are not those of the model."""
    prefix = prefix_between({change.name for change in plan.changes}, set(model.state_dict()))
    why = (
        f"the names of the plan begin with {shown(prefix)!r}; plan again" if prefix else "the plan is for another model"
    )
    return RekernelError(f"{shown(name)}: {what}; {why}")


def unflattened_size(sizes: tuple[int, ...], change: ModuleChange) -> tuple[int, ...]:
    """The new sizes of an nn.Unflatten that makes a grid.

    Examples
    --------
    >>> from rekernel import AxisGeometry
    >>> side, double = AxisGeometry(4, 1, (0, 0)), AxisGeometry(8, 1, (0, 0))
    >>> unflattened_size((16, 4), ModuleChange("0", "unflatten", "", (side,), (double,)))
    (16, 8)
    """
    old, new = _sizes(change)
    if tuple(sizes[1:]) == old:
        return (sizes[0], *new)
    if tuple(sizes[:-1]) == old:
        return (*new, sizes[-1])
    raise RekernelError(
        f"{shown(change.name)}: unflattens to {sizes}, but the plan expects a grid of {old}; the plan is for another "
        f"model"
    )


def normalized_shape(shape: tuple[int, ...], change: ModuleChange) -> tuple[int, ...]:
    """The new shape of an nn.LayerNorm over the channels and the pixels of a grid, or over the pixels alone.

    Examples
    --------
    >>> from rekernel import AxisGeometry
    >>> side, double = AxisGeometry(4, 1, (0, 0)), AxisGeometry(8, 1, (0, 0))
    >>> normalized_shape((16, 4), ModuleChange("0", "layer-norm", "", (side,), (double,)))
    (16, 8)
    """
    old, new = _sizes(change)
    if old and tuple(shape[-len(old) :]) == old:
        return (*shape[: -len(old)], *new)
    raise RekernelError(
        f"{shown(change.name)}: normalises over {shape}, but the plan expects a grid of {old}; the plan is for another "
        f"model"
    )


def _sizes(change: ModuleChange) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The sizes that a change has instead of windows, before and after."""
    old, new = (tuple(g.kernel for g in geometry) for geometry in (change.geometry, change.new_geometry))
    return old, new
