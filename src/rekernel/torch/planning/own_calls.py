"""Find, in a trace, the convolutions with a forward method of their own, and describe their calls as the layer does it.

A forward method that pads and convolves is one convolution to the planner, whatever functions it calls: `F.pad`, a
child module that pads, a crop of the result, a weight that it computes.
Scope: the calls of a trace. Not here: what a forward method does (see `torch.layers.own_forward`), and what becomes of
the layer (see `torch.planning.follow`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ...plan.changes import ModuleChange
from ..layers.own_forward import OWN, OwnForward, cannot_keep, examined, has_own_forward
from ..layers.padding import own_padding
from ..tracing.layer_call import LayerCall
from ..tracing.run import Trace
from .adapters import adapted


def own_calls(trace: Trace, modules: Mapping[str, nn.Module]) -> tuple[Trace, dict[str, OwnForward]]:
    """The trace, with the calls of such layers as they are; and what their forward methods do, by the layer's path.

    A call within a forward method that pads and convolves becomes one of kind 'within': the convolution stands for it.

    Parameters
    ----------
    modules : mapping
        All modules of the model by path.
    """
    found: dict[str, OwnForward] = {}
    seen: dict[tuple[str, tuple[int, ...]], OwnForward] = {}
    calls = []
    for call in trace.calls:
        layer: Any = modules.get(call.module)
        if isinstance(layer, nn.modules.conv._ConvNd) and call.kind in ("conv", "conv-transpose"):
            if why := adapted(call.module, modules):
                found[call.module] = OwnForward("unclear", why=why)
            elif has_own_forward(layer) and len(call.size) == len(layer.kernel_size):
                found[call.module], call = _described(call, layer, seen)
        calls.append(call)
    calls = [
        replace(call, kind="within") if _stands_for(found.get(call.module)) and call.kind in ("by-pixel", "other")
        else call for call in calls
    ]  # fmt: skip
    return replace(trace, calls=calls), found


def own_notes(layers: Mapping[str, tuple[nn.Module, OwnForward]]) -> list[str]:
    """The notes about layers with a forward method of their own that are rescaled, one for all of a class.

    Examples
    --------
    >>> layer = nn.Conv2d(1, 1, 3), OwnForward("more")
    >>> own_notes({"stem": layer, "a.conv": layer})
    ['stem and 1 more: a Conv2d with a forward method of its own, which does more than pad and convolve; its class \
stays']
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for path, (layer, found) in layers.items():
        alike.setdefault((type(layer).__name__, _does(found)), []).append(path or "the model itself")
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: a {kind} with a forward method of its "
        f"own, which {does}"
        for (kind, does), paths in alike.items()
    ]


def _does(found: OwnForward) -> str:
    if found.does == "computes":
        return "computes its weight; the computed weight was baked into a plain convolution"
    if found.replaced:
        return "pads and convolves; a plain convolution replaces it"
    does = "pads and convolves" if found.does == "convolves" else "does more than pad and convolve"
    return f"{does}; its class stays"


def baked(path: str) -> ModuleChange:
    """The entry of a plan for a layer whose computed weight is rescaled.

    Examples
    --------
    >>> baked("stem").kind
    'bake'
    """
    return ModuleChange(path, "bake", "its forward method computes its weight", (), ())


def form_of(call: LayerCall, layer: nn.Module, found: OwnForward | None, form: str) -> str:
    """The form in which a layer is rescaled. One that keeps its class has no factored form.

    Raises
    ------
    RekernelError
        If its forward method does what neither a plain layer can do nor one of its class.
    """
    if found is None:
        return form
    if found.does == "unclear":
        raise cannot_keep(call.weight, layer, found.why)
    return form if found.replaced or form == "dense" else "plain"


def _stands_for(found: OwnForward | None) -> bool:
    return found is not None and found.replaced


def _described(
    call: LayerCall, layer: Any, seen: dict[tuple[str, tuple[int, ...]], OwnForward]
) -> tuple[OwnForward, LayerCall]:
    """What the layer does, and its call with the padding that it does itself."""
    hand = [sum(pair) for pair in call.by_hand] or [0] * len(call.size)
    size = tuple(n - added for n, added in zip(call.size, hand, strict=True))
    found = _examined(call.module, layer, size, seen)
    if found.does == "unclear":
        return found, call
    by_mode = [sum(pair) if layer.padding_mode != "zeros" else 0 for pair in own_padding(layer)]
    grows = [max(g - own, 0) if own else g for g, own in zip(found.grows, by_mode, strict=True)]
    size = tuple(n - g for n, g in zip(call.size, grows, strict=True))
    found = _examined(call.module, layer, size, seen)
    if not any(grows) and not any(found.crops) and found.mode in ("zeros", layer.padding_mode):
        return found, replace(call, inside=False, weight=_weight(call) if found.replaced else call.weight)
    if any(added > own for added, own in zip(hand, grows, strict=True)):
        why = f"{OWN}it pads an image that the model has padded already"
        return replace(found, does="unclear", why=why), call
    if not found.pads and hand == list(found.grows) and call.by_hand_mode == "constant":
        found = replace(found, pads=call.by_hand)  # it pads what it made of the image
    if not found.pads or not (found.replaced or found.mode == "zeros"):
        why = f"{OWN}it does more than pad its image with zeros and convolve"
        return replace(found, does="unclear", why=why), call
    total = [sum(pair) for pair in found.pads]
    described = replace(
        call, by_hand=found.pads, by_hand_mode="constant" if found.mode == "zeros" else found.mode,
        inside=found.replaced, size=tuple(n + added for n, added in zip(size, total, strict=True)),
    )  # fmt: skip
    if found.replaced:
        out = tuple(n - crop for n, crop in zip(call.out_size, found.crops, strict=True))
        described = replace(described, out_size=out, weight=_weight(call))
    return found, described


def _weight(call: LayerCall) -> str:
    return f"{call.module}.weight".removeprefix(".")


def _examined(
    path: str, layer: Any, size: Sequence[int], seen: dict[tuple[str, tuple[int, ...]], OwnForward]
) -> OwnForward:
    key = path, tuple(n % t for n, t in zip(size, layer.stride, strict=True))
    if key not in seen:
        seen[key] = examined(layer, size)
    return seen[key]
