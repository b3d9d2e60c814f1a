"""Find out from names and shapes how a checkpoint's network reads its image, and choose the mode of the network.

Scope: the mode of the network, and the layer that reads the image. Not here: what becomes of that layer (see
`planning.rules`), and the same decision for a traced model (see `torch.planning.reading`) or a graph (see `onnx.walk`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..architectures.axis_order import pytorch_shape
from ..architectures.base import MAKES_IMAGES, Family, has_all
from ..architectures.detect import is_weight
from ..errors import Option, RekernelError
from ..escape import shown
from ..messages.note import Note
from ..patterns import layer_of
from ..plan.changes import LayerMode, Mode
from ..resampling.geometry import is_whole
from ..text import few, scale_text
from .roles import ABSORB, AUTO, SMALL_PATCHES, SUPERSAMPLE, Network, checked_mode, network_mode, patches_stay
from .settings import Hints, Settings
from .weight_norm import computed_from, length_of

_HEAD = re.compile(r"((?!(\w*_)?\d+[./])[^./]+[./])*(fc|heads?|classifier|logits|linear|predictions|output)\d*([./]|$)")
"""A last layer. One behind a number is a layer of a repeated block: `blocks.0.mlp.fc1`, `blocks_0/mlp/fc1`."""
_COLOURS = (1, 2, 3, 4)
"""Channels of an image."""

NOT_NEEDED = "the layer that reads the image absorbs the scale, so this tensor stays as it was trained"
RESAMPLED = "the image is resampled to the trained size in front of the network"


@dataclass(frozen=True)
class Reading:
    """How a network reads an image of the new size.

    mode : 'absorb' or 'supersample'
    network : facts about the network, which decide the methods of its layers
    readers : names of the weights that read the image; empty if no name tells them
    resample : reason why the image is resampled in front of the network instead; empty if it is not
    keeps_patch : whether a vision transformer keeps its patch, so that the number of tokens grows
    per_layer : whether the caller gave the modes of single layers
    note : note for the plan, or empty
    """

    mode: Mode
    network: Network = field(default_factory=Network)
    readers: frozenset[str] = frozenset()
    resample: str = ""
    keeps_patch: bool = False
    per_layer: bool = False
    note: str = ""


def reading(
    shapes: Mapping[str, tuple[int, ...]], family: Family | None, settings: Settings, hints: Hints, asked: str,
    chosen: Collection[str],
) -> Reading:  # fmt: skip
    """Choose the mode of the network, and find the layer that reads the image.

    Parameters
    ----------
    shapes : mapping
        Shapes of all tensors, in PyTorch's order of axes.
    asked : {'auto', 'absorb', 'supersample'}
        What the caller asked of the network. Modes of single layers come with the hints.
    chosen : collection of str
        Names of the selected tensors.

    Examples
    --------
    >>> classifier = {"conv1.weight": (8, 3, 3, 3), "conv2.weight": (8, 8, 3, 3), "fc.weight": (10, 8)}
    >>> reading(classifier, None, Settings(2), Hints(), "auto", classifier).readers
    frozenset({'conv1.weight'})
    """
    shapes = _turned(shapes, hints)
    per_layer = {pattern: mode for pattern, mode in hints.mode.items() if pattern != "*"}
    asked = hints.mode.get("*", asked)
    if asked != AUTO:
        checked_mode(asked)
    image = family.gives_image(shapes) if family else _gives_image(shapes)
    network = Network(gives_image=image is not False, predicts_noise=family is not None and family.default == "inner")
    if not any(len(shape) > 2 for shape in shapes.values()):  # matrices alone; those that read pixels absorb anyway
        return Reading(SUPERSAMPLE, network, per_layer=True)
    readers = frozenset(filter(None, [reader_of(shapes, family)]))
    if per_layer and asked != ABSORB:
        return Reading(SUPERSAMPLE, network, readers, per_layer=True)
    readers = _named(shapes, per_layer) or readers
    if asked == AUTO and image is None:
        return Reading(
            SUPERSAMPLE,
            network,
            readers,
            note=Note(
                "the names do not tell whether this network gives an image back, so its feature maps grow with the "
                "image; for a classifier pass ",
                Option("mode='absorb'", "--mode absorb"),
                ", which loses nothing",
            ),
        )
    mode = network_mode(asked, network)
    if mode == SUPERSAMPLE:
        return Reading(mode, network, readers)
    if not readers or not readers <= {*chosen}:
        why = "no name tells which layer reads the image"
        if readers:
            why = f"{few([shown(name) for name in sorted(readers)])}: reads the image, but is not selected"
        if asked == AUTO:
            note = Note(
                f"{why}, so the feature maps grow with the image, which can cost a classifier accuracy; name the layer "
                f"that absorbs the scale instead: ",
                Option("mode='absorb', hints=Hints(mode={'NAME': 'absorb'})", "--mode absorb --mode NAME=absorb"),
            )
            return Reading(SUPERSAMPLE, network, note=note)
        raise RekernelError(
            why, "; name the layer that absorbs the scale, beside the mode of the network: ",
            Option("hints=Hints(mode={'NAME': 'absorb'})", "--mode NAME=absorb"),
        )  # fmt: skip
    told = [_told(name, shapes, family, settings, hints) for name in sorted(readers)]
    small = min(settings.scale if isinstance(settings.scale, tuple) else (settings.scale,)) < 1
    if asked == AUTO and small and not any(told):  # patches alone can shrink
        return Reading(ABSORB, resample=f"{few([shown(name) for name in sorted(readers)])}: {SMALL_PATCHES}")
    if not any(told):
        return Reading(ABSORB, readers=readers)
    facts = [family.facts(name, shapes) for name in readers] if family else []
    if asked == AUTO and not small and facts and all(f and f.role == "patch" for f in facts):
        kernels = [(shapes[name][2:], settings.scales(len(shapes[name]) - 2) or ()) for name in sorted(readers)]
        return Reading(SUPERSAMPLE, readers=readers, keeps_patch=True, note=patches_stay(*kernels[0]))
    return Reading(ABSORB, resample=next(filter(None, told)))


def _told(
    reader: str, shapes: Mapping[str, tuple[int, ...]], family: Family | None, settings: Settings, hints: Hints
) -> str:
    """The reason why a layer cannot absorb the scale; empty if it can."""
    if computed := computed_from(reader, shapes):
        return f"{shown(reader)}: {computed}"
    if length_of(reader, shapes) and hints.given("layout", reader) is None:
        return f"{shown(reader)}: is the direction of a weight norm, which is rescaled where a hint gives its layout"
    facts = family.facts(reader, shapes) if family else None
    stride = hints.given("stride", reader) or (facts.stride if facts else 0)
    scales = settings.scales(len(shapes[reader]) - 2) or ()
    patch = (facts and facts.role == "patch") or (
        hints.given("padding", reader) == 0 and all(k == stride for k in shapes[reader][2:])
    )
    # A patch is a grid of pixels of its own, which may shrink; another kernel may not.
    whole = stride and all(is_whole(s * stride) and (s >= 1 or (patch and s * stride >= 1)) for s in scales)
    if whole or all(map(is_whole, scales)):
        return ""
    what = f"stride {stride}" if stride else "a stride that no name tells"
    return f"{shown(layer_of(reader))}: {what} cannot absorb a scale of {scale_text(settings.scale)}"


def _named(shapes: Mapping[str, tuple[int, ...]], modes: Mapping[str, LayerMode]) -> frozenset[str]:
    """The names of the convolutions that the caller told to absorb."""
    told = Hints(mode=modes)
    return frozenset(n for n, s in shapes.items() if len(s) > 2 and told.given("mode", n) == ABSORB)


def _turned(shapes: Mapping[str, tuple[int, ...]], hints: Hints) -> dict[str, tuple[int, ...]]:
    """The shapes, those in PyTorch's order for which the caller named a layout of their own."""
    of_all = hints.layout_of_all()
    own = {name: hints.given("layout", name) for name in shapes}
    return {name: pytorch_shape(shape, None if own[name] == of_all else own[name]) for name, shape in shapes.items()}


def reader_of(shapes: Mapping[str, tuple[int, ...]], family: Family | None) -> str:
    """The name of the one convolution that reads the image; empty if the names do not tell it.

    Without a family this is the first convolution, in the order of numbers in the names, that reads as many channels as
    an image has.

    Examples
    --------
    >>> reader_of({"10.weight": (8, 8, 3, 3), "2.weight": (8, 1, 3, 3), "a.0.weight": (9, 3, 5, 5)}, None)
    'a.0.weight'
    """
    if family:
        found = [n for n in shapes if (facts := family.facts(n, shapes)) and facts.reads_image]
        return found[0] if len(found) == 1 else ""
    kernels = [n for n, s in shapes.items() if 3 <= len(s) <= 5 and (is_weight(n) or computed_from(n, shapes))]
    readers = [n for n in kernels if shapes[n][1] in _COLOURS]
    coloured = [n for n in readers if shapes[n][1] > 1]  # a depthwise convolution has one input channel, too
    ordered = sorted(coloured or readers, key=_in_order)
    return ordered[0] if ordered and (len(coloured) == 1 or not coloured) else ""


def _in_order(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts '2.weight' before '10.weight'."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _gives_image(shapes: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether a network of no known family gives an image back; None if its names do not tell."""
    if has_all(shapes, MAKES_IMAGES):
        return None
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and is_weight(name)]
    if any(_HEAD.match(layer_of(name)) for name in matrices):
        return False
    layers = sorted((n for n, s in shapes.items() if len(s) >= 2 and is_weight(n)), key=_in_order)
    numbered = bool(layers) and all(layer_of(name).split(".")[0].isdigit() for name in layers)
    return False if numbered and layers[-1] in matrices else None
