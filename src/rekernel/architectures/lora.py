"""Low-rank adapters (LoRA, LoCon, LoKr, full differences): which of their tensors carries the kernel.

Knows the names of kohya, LyCORIS, diffusers and PEFT, and how each adapter's tensors make the difference they stand
for. Where that difference is linear in the tensor that holds the spatial axes, rescaling this one tensor rescales the
difference exactly; where it is not, the tensor is refused. Source: our derivation (resampling acts on spatial axes,
products of the other axes commute with it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from ..patterns import layer_of, matcher
from .base import Family, LayerFacts, Shapes, exactly
from .registry import recognise

_PART = re.compile(
    r"^(?P<layer>.+?)[._](?P<part>lora[._](?:down|up|mid)|lora_[AB]|hada_(?:w[12]_[ab]|t[12])"
    r"|lokr_(?:w[12](?:_[ab])?|t2)|lora_magnitude_vector|dora_scale|diff_b|diff|alpha|oft_blocks|oft_diag)"
    r"(?:\.[\w-]+?)??(?P<leaf>\.weight|\.bias)?$"
)
_CARRIERS = {"lora_down", "lora_up", "lora_mid", "lora_A", "lora_B", "lokr_w2", "lokr_t2", "diff"}
_MARKS = {"lora_down", "lora_A", "hada_w1_a", "lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a"}
_WHOLE_KERNELS = re.compile(
    r"\.resnets\.\d+\.conv[12]$|\.(down|up)samplers\.\d+\.conv$|^conv_(in|out)$"
    r"|\.(in_layers|out_layers)\.[23]$|(^|\.)out\.2$|\.\d+\.(op|conv)$|input_blocks\.0\.0$"
)
"""Layers of diffusion UNets whose kernel is 3x3: what a flattened kernel's shape does not tell."""
_KERNEL = (1, 1, 3, 3)
_UNDERSCORED = re.compile(r"^(?:lora|lycoris|oft|boft)_(?:(unet|te\d?)_)?(.+)$")
_DOTTED = re.compile(r"^(base_model\.model\.|transformer\.|unet\.)")


@dataclass(frozen=True)
class Part:
    """A tensor of an adapter: the layer as the file names it, and which of the adapter's tensors it is."""

    layer: str
    part: str
    leaf: str


@dataclass(frozen=True)
class Contents:
    """What the names in an adapter's file say.

    parts : by tensor
    layers : the adapted model's name of each layer, by the file's
    members : tensors of each layer, by part; biases aside
    base : the family of the adapted model
    base_shapes : stand-ins for the adapted weights: families read their names, and that they have kernels
    """

    parts: dict[str, Part]
    layers: dict[str, str]
    members: dict[str, dict[str, str]]
    base: Family | None
    base_shapes: Shapes


class Adapter:
    """An adapter's file, read through the family of the model it is for."""

    name = "LoRA"
    default = "inner"

    def recognises(self, shapes: Shapes) -> bool:
        found = [(m["layer"], m["part"].replace(".", "_")) for name in shapes if (m := _PART.match(name))]
        return any(part in _MARKS or (part == "diff" and _UNDERSCORED.match(layer)) for layer, part in found)

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        contents = _read(tuple(shapes))
        part = contents.parts.get(name)
        if part is None or part.leaf == ".bias":
            return None
        layer = contents.layers[part.layer]
        parts = {which: shapes[n] for which, n in contents.members[part.layer].items()}
        if not _has_kernel(parts, layer):
            return None
        if why := _refusal(parts):
            return LayerFacts(refusal=why)
        known = contents.base.facts(f"{layer}.weight", contents.base_shapes) if contents.base else None
        shape = shapes[name]
        if part.part in _CARRIERS and len(shape) > 2 and max(shape[2:]) > 1:
            return replace(known or LayerFacts(), layout="OI" + "DHW"[5 - len(shape) :])
        if part.part == "lokr_w2_b" and "lokr_t2" not in parts:  # (rank, in * 3 * 3)
            return replace(known or LayerFacts(), layout="OIHW", view=(shape[0], shape[1] // 9, 3, 3))
        return None

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        contents = _read(tuple(shapes))
        if contents.base is None:
            return {"inner": ("*",), "all": ("*",)}
        presets = {}
        for preset, patterns in contents.base.presets(contents.base_shapes).items():
            tests = [matcher(pattern) for pattern in patterns]
            layers = {here for here, there in contents.layers.items() if any(test(f"{there}.weight") for test in tests)}
            presets[preset] = exactly(name for name, part in contents.parts.items() if part.layer in layers)
        return {"inner": (), **presets, "all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        contents = _read(tuple(shapes))
        base = contents.base
        if not any(
            _has_kernel({part: shapes[n] for part, n in members.items()}, contents.layers[layer])
            for layer, members in contents.members.items()
        ):
            return ("an adapter without kernels: it goes with the rescaled model as it is",)
        if base is None:
            return ("an adapter for a model of no known family: every kernel in it is rescaled, at stride 1",)
        return (f"an adapter for a {base.name}: rescale that one with the same options, and use them together",)


@lru_cache(maxsize=4)
def _read(names: tuple[str, ...]) -> Contents:
    matches = {name: m for name in names if (m := _PART.match(name))}
    parts = {n: Part(m["layer"], m["part"].replace(".", "_"), m["leaf"] or "") for n, m in matches.items()}
    layers = {part.layer: base_layer(part.layer) for part in parts.values()}
    members: dict[str, dict[str, str]] = {layer: {} for layer in layers}
    for name, part in parts.items():
        if part.leaf != ".bias":
            members[part.layer][part.part] = name
    shapes = {f"{layer}.weight": _KERNEL for layer in layers.values()}
    return Contents(parts, layers, members, *_base_of(shapes))


def _base_of(shapes: Shapes) -> tuple[Family | None, Shapes]:
    """The family of the adapted model, of which an adapter has but some layers: those that tell a UNet are supplied."""
    original = next((m for name in shapes if (m := re.match(r"(.*?)(input|output|middle)_blocks?\.\d", name))), None)
    marks: tuple[str, ...] = ()
    if original:
        unet = original[1]
        marks = (f"{unet}input_blocks.0.0.weight", f"{unet}input_blocks.3.0.op.weight")
        # Where levels begin and end in Stable Diffusion 1, 2 and XL, all with two blocks a level.
        if not any(name.endswith(".0.op.weight") for name in shapes):
            shapes = {**shapes, marks[1]: _KERNEL}
        outputs = [int(m[1]) for name in shapes if (m := re.search(r"output_blocks\.(\d+)\.", name))]
        if outputs and not any(re.search(r"output_blocks\.\d+\.\d\.conv\.weight$", name) for name in shapes):
            shapes = {**shapes, f"{unet}output_blocks.{max(max(outputs) - 3, 0)}.1.conv.weight": _KERNEL}
    elif any(re.match(r"(down|up)_blocks\.\d|mid_block\.", name) for name in shapes):
        marks = ("conv_in.weight", "down_blocks.0.x.weight", "up_blocks.0.x.weight", "time_embedding.x.weight")
    return recognise({**shapes, **dict.fromkeys(marks, _KERNEL)}), shapes


def base_layer(layer: str) -> str:
    """The adapted model's name of a layer.

    Examples
    --------
    >>> base_layer("lora_unet_down_blocks_0_downsamplers_0_conv"), base_layer("lora_unet_input_blocks_3_0_op")
    ('down_blocks.0.downsamplers.0.conv', 'input_blocks.3.0.op')
    >>> base_layer("base_model.model.mid_block.resnets.0.conv1")
    'mid_block.resnets.0.conv1'
    """
    if (m := _UNDERSCORED.match(layer)) and "." not in layer:
        name = re.sub(r"^(mid_block|middle_block)_", r"\1.", m[2])
        name = re.sub(r"(?<=[a-z_.])[_.](\d+)(?=_|$)", r".\1", name)
        name = re.sub(r"\.(\d+)_(?=(\d))", r".\1.", name)
        name = re.sub(r"\.(\d+)_", r".\1.", name)
        return f"{m[1]}.{name}" if m[1] and m[1] != "unet" else name
    while _DOTTED.match(layer):
        layer = _DOTTED.sub("", layer)
    return layer_of(layer)


def _has_kernel(parts: Mapping[str, tuple[int, ...]], layer: str) -> bool:
    """Whether the adapted layer has a kernel of more than one tap, flattened ones included."""
    if any(len(shape) > 2 and max(shape[2:]) > 1 for part, shape in parts.items() if part != "dora_scale"):
        return True
    flattened = [parts[n] for n in ("lokr_w2_b", "hada_w1_b") if n in parts and "hada_t1" not in parts]
    flattened = [] if "lokr_t2" in parts else flattened
    return bool(flattened) and bool(_WHOLE_KERNELS.search(layer)) and flattened[0][1] % 9 == 0


def _refusal(parts: Mapping[str, tuple[int, ...]]) -> str:
    """Why an adapter of a layer with a kernel cannot be rescaled exactly; empty where it can."""
    merge = "merge it into the model and convert that"
    if any(part.startswith("hada_") for part in parts):
        return f"LoHa multiplies two kernels tap by tap, and the product's interpolation is not theirs; {merge}"
    if "dora_scale" in parts or "lora_magnitude_vector" in parts:
        return f"DoRA divides by the norm of the whole weight, which changes with its size; {merge}"
    with_kernel = [p for p, s in parts.items() if p in _CARRIERS | {"lokr_w1"} and len(s) > 2 and max(s[2:]) > 1]
    if len(with_kernel) > 1:
        return f"{' and '.join(sorted(with_kernel))} both have a kernel, and only one may; {merge}"
    if with_kernel == ["lokr_w1"]:
        return f"the kernel is in lokr_w1, where no known tool puts it; {merge}"
    return ""
