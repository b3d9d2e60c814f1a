"""Find out from a trace how a model reads its image, and choose the mode of the model.

Scope: the mode of the model, and the layers that read the image. Not here: what becomes of these layers (see
`planning.rules`), and the same decision from names (see `planning.reading_by_name`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...architectures.registry import recognise
from ...errors import RekernelError
from ...escape import shown
from ...plan.changes import Mode
from ...planning.roles import ABSORB, AUTO, SMALL_PATCHES, SUPERSAMPLE, Network, check_whole_patches, network_mode
from ...resampling.geometry import is_whole
from ..layers.module_names import owner_of
from ..layers.own_forward import OwnForward
from ..layers.padding import own_padding
from ..tracing.layer_call import LayerCall
from ..tracing.run import Trace

Scales = tuple[float, ...]


@dataclass(frozen=True)
class Reading:
    """How a model reads an image of the new size.

    mode : 'absorb' or 'supersample'
    readers : names of the weights that read the image and absorb the scale
    resample : reason why the image is resampled in front of the model instead; empty if it is not
    keeps_patch : whether a vision transformer keeps its patches, so that the number of tokens grows
    per_layer : whether the caller gave the modes of single layers
    """

    mode: Mode
    readers: frozenset[str] = frozenset()
    resample: str = ""
    keeps_patch: bool = False
    per_layer: bool = False


def reading(
    trace: Trace, modules: Mapping[str, nn.Module], scale: Scales, network: Network, asked: str,
    modes: Mapping[str, Mode], excluded: Collection[str], own: Mapping[str, OwnForward],
) -> Reading:  # fmt: skip
    """Choose the mode of the model, and find the layers that read the image.

    Parameters
    ----------
    modules : mapping
        All modules of the model by path.
    scale : tuple of float
        New pixels per old pixel, one per spatial axis.
    asked : {'auto', 'absorb', 'supersample'}
        What the caller asked of the model.
    modes : {glob: mode}
        Modes of single layers that the caller gave.
    excluded : collection of str
        Names of the weights that are not selected.
    own : {path: OwnForward}
        What the forward methods of subclasses of a convolution do.
    """
    if modes and asked == AUTO:
        return Reading(SUPERSAMPLE, per_layer=True)
    mode = network_mode(asked, network)
    if mode == SUPERSAMPLE or trace.latent or all(s == 1 for s in scale):
        return Reading(SUPERSAMPLE)
    readers = [call for call in trace.calls if 0 in call.sources and call.kind != "within"]
    told = [_told_by_own(call, own) or _told(call, trace, modules, scale, excluded) for call in readers]
    reasons = [why for why in told if why]
    names = frozenset(call.weight for call in readers)
    if asked == AUTO and min(scale) < 1 and not reasons:
        reasons = [f"{call.weight}: {SMALL_PATCHES}" for call in readers if call.kind == "conv"]
    if readers and not reasons:
        return Reading(ABSORB, names)
    if asked == AUTO and min(scale) >= 1 and network.attends and len(readers) == 1 and _is_patch(readers[0], modules):
        patch: Any = modules[owner_of(readers[0].weight)]
        check_whole_patches(patch.kernel_size, readers[0].size, scale)
        return Reading(SUPERSAMPLE, names, keeps_patch=True)
    return Reading(ABSORB, resample=reasons[0] if reasons else "no layer was seen to read the image")


def _told(
    call: LayerCall, trace: Trace, modules: Mapping[str, nn.Module], scale: Scales, excluded: Collection[str]
) -> str:
    """The reason why the layer of a call cannot absorb the scale; empty if it can."""
    where = call.weight or call.module or "the model"
    if call.kind == "other":
        return f"{call.module or 'the model'}: {call.what} of the image is not the reduced {call.what} of a larger one"
    if call.kind not in ("conv", "linear"):
        return f"{call.module or 'the model'}: {call.kind} reads the image itself"
    if call.sources != {0}:
        return f"{where}: reads the image together with features"
    if call.weight in excluded:
        return f"{where}: is not selected"
    if sum(other.weight == call.weight for other in trace.calls) > 1:
        return f"{where}: one weight reads the image and something else"
    if not all(is_whole(n * s) for n, s in zip(trace.size, scale, strict=True)):
        return f"a size of {_by(trace.size)} times {_by(scale)} is not a whole number"
    m: Any = modules.get(owner_of(call.weight))
    if call.kind == "linear":
        return (
            ""
            if isinstance(m, nn.Linear) and call.grid[1:] == trace.size
            else f"{where}: reads the pixels in another order"
        )
    return _told_by_conv(call, m, trace.size, scale)


def _told_by_own(call: LayerCall, own: Mapping[str, OwnForward]) -> str:
    found = own.get(call.module)
    unclear = found is not None and found.does == "unclear"
    return f"{call.module or 'the model'}: {own[call.module].why}" if unclear else ""


def _told_by_conv(call: LayerCall, m: Any, size: tuple[int, ...], scale: Scales) -> str:
    if not isinstance(m, nn.modules.conv._ConvNd) or owner_of(call.weight) != call.module:
        return f"{call.weight or call.module}: is a functional convolution, or one with a computed weight"
    hand = call.by_hand or ((0, 0),) * len(m.kernel_size)
    if tuple(n - sum(pads) for n, pads in zip(call.size, hand, strict=True)) != size:
        return f"{call.weight}: reads a part of the image, or its pixels in another order"
    if m.padding_mode not in ("zeros", "circular") or call.by_hand_mode not in ("constant", "circular"):
        return f"{call.weight}: pads by {m.padding_mode if m.padding_mode != 'zeros' else call.by_hand_mode!r}"
    # Code that computes its padding, as TensorFlow's 'SAME', may pad differently where the stride leaves another rest.
    if any(any(h) and round(n * s) % t != n % t for h, n, s, t in zip(hand, size, scale, m.stride, strict=True)):
        return f"{call.weight}: at {_by(scale)} times the size the model's code may pad it differently"
    strides = [t * s for t, s in zip(m.stride, scale, strict=True)]
    if not all(is_whole(t) and t >= 1 for t in strides):
        return f"{call.weight}: a stride of {_by(m.stride)} times {_by(scale)} is not a whole number"
    if min(scale) < 1 and not _is_patch(call, {call.module: m}):
        return f"{call.weight}: a kernel of {_by(m.kernel_size)} taps cannot shrink by {_by(scale)}"
    return ""


def _is_patch(call: LayerCall, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a convolution cuts the image into adjacent patches."""
    m: Any = modules.get(owner_of(call.weight))
    if call.kind != "conv" or not isinstance(m, nn.modules.conv._ConvNd):
        return False
    plain = all(d == 1 for d in m.dilation) and not any(map(any, (*own_padding(m), *call.by_hand)))
    return plain and tuple(m.stride) == tuple(m.kernel_size) and max(m.kernel_size) > 1


def _by(numbers: Any) -> str:
    return "x".join(f"{n:g}" for n in numbers)


def preset_layers(model: nn.Module, preset: str) -> tuple[str, ...]:
    """Patterns of the layers in a preset of the family that the names of a model show.

    Examples
    --------
    >>> preset_layers(nn.Conv2d(1, 1, 3), "all")
    ('*',)
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    family = recognise(shapes)
    presets = family.presets(shapes) if family else {"all": ("*",)}
    if preset not in presets:
        raise RekernelError(
            f"preset={shown(repr(preset), 40)} is not a preset of this {type(model).__name__}, which has "
            f"{', '.join(sorted(presets))}; or pass include= with patterns on the names of its parameters"
        )
    return presets[preset]


def inner_layers(model: nn.Module) -> tuple[str, ...] | None:
    """Patterns of the layers to rescale in a noise predictor: all but the finest level. None for any other model.

    Examples
    --------
    >>> inner_layers(nn.Conv2d(1, 1, 3)) is None
    True
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    family = recognise(shapes)
    return family.presets(shapes)[family.default] if family is not None and family.default == "inner" else None
