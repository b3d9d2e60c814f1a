"""Rescale layers with a forward method of their own: by a plain layer where it does the same, else by one of the class.

Scope: one layer and its change. Not here: what a forward method does (see `torch.layers.own_forward`), and the layers
of torch's own classes (see `torch.editing.apply`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ...errors import RekernelError
from ...escape import shown
from ...patterns import without
from ...plan.changes import LayerChange
from ..layers.dense import plain_layer
from ..layers.module_names import owner_of
from ..layers.own_forward import OWN, cannot_keep, computed_weight, examined, has_own_forward, multiplies_alone
from ..layers.same_class import PadInput, kept_conv, kept_linear
from ..surroundings import in_format_of
from .edits import Edits


@dataclass(frozen=True)
class Way:
    """How a layer is rescaled.

    base : the layer that the plain rescaled one is made from
    kept : the rescaled layer if it keeps the class of the old one; None for a plain one
    hook : forward pre-hook that the kept layer needs
    """

    base: Any
    kept: nn.Module | None = None
    hook: PadInput | None = None


def bake_computed(edits: Edits, old: Any, name: str) -> None:
    """Replace a convolution whose forward method computes its weight by a plain one with the computed weight.

    Raises
    ------
    RekernelError
        If the layer does something else.
    """
    if isinstance(old, nn.modules.conv._ConvNd) and not has_own_forward(old):
        return  # plain in this model
    found = examined(old) if isinstance(old, nn.modules.conv._ConvNd) else None
    if found is None or found.does != "computes":
        raise RekernelError(
            f"{shown(name)}: this {type(old).__name__} is not a convolution that computes its weight; the plan is for "
            f"another model"
        )
    weight, bias = computed_weight(old)
    new = plain_layer(old, in_format_of(old.weight, weight), bias, padding_mode=found.mode)
    edits.replace(old, new.requires_grad_(old.weight.requires_grad))


def way_of(old: nn.Module, change: LayerChange, weight: nn.Parameter) -> Way:
    """How to rescale a layer: by a plain one, or by one of the same class.

    Parameters
    ----------
    weight : nn.Parameter
        The weight of the new layer.

    Raises
    ------
    RekernelError
        If a plain layer would lose what the forward method of the layer does, and the class cannot be kept either.
    """
    if not isinstance(old, nn.modules.conv._ConvNd | nn.Linear) or not has_own_forward(old):
        return Way(old)
    if isinstance(old, nn.Linear):
        if multiplies_alone(old):
            return Way(old)
        linear = kept_linear(old, weight)
        if linear is None:
            raise cannot_keep(change.name, old, f"{OWN}it does more than a matrix product")
        return Way(old, linear)
    found = examined(old)
    if found.does == "computes":
        raise RekernelError(
            f"{shown(change.name)}: {type(old).__name__} computes the weight that it convolves by (as weight "
            f"standardisation does), so the weight that was rescaled is not its kernel; use rekernel.torch.rescale, or "
            f"convert again without this layer: ",
            without(owner_of(change.name)),
        )
    if found.replaced:
        return Way(plain_layer(old, old.weight, old.bias, padding_mode=found.mode))
    dilates = all(o.method == "dilate" and o.gain == "dc" for o in change.factors)
    known = bool(found.pads or change.by_hand)
    if found.does != "unclear" and dilates and known:
        scales = {o.axis - 2: o.scale for o in change.resamplings}
        spread = {o.axis - 2: round(o.scale) for o in change.factors}
        made = kept_conv(
            old, weight, stride=[g.stride for g in change.new_geometry],
            dilation=[d * spread.get(axis, 1) if spread else 1 for axis, d in enumerate(old.dilation)],
            sides=tuple(g.padding for g in change.new_geometry),
            scales=[scales.get(axis, 1.0) for axis in range(len(old.dilation))], takes_more=found.takes_more,
        )  # fmt: skip
        if made is not None:
            return Way(old, *made)
    more = f"{OWN}it takes arguments beside the image, which the new padding would have to fit"
    raise cannot_keep(change.name, old, found.why or (more if found.takes_more else ""))
