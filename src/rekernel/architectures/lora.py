"""Low-rank adapters (LoRA, LoCon, LoKr, full differences): find the tensor that holds the kernel.

Scope: the names of kohya, LyCORIS, diffusers and PEFT, and how the tensors of each adapter combine to a weight
difference. If the difference is linear in the tensor with the spatial axes, rescaling this tensor rescales the
difference exactly. Otherwise the tensor is refused. Not here: the layers of the adapted model (see
`architectures.diffusion`). Source: our derivation (resampling acts on the spatial axes, and commutes with products
along the other axes).
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
"""Layers of diffusion UNets with a 3x3 kernel; the shape of a flattened kernel does not show the kernel size."""
_KERNEL = (1, 1, 3, 3)
_UNDERSCORED = re.compile(r"^(?:lora|lycoris|oft|boft)_(?:(unet|te\d?)_)?(.+)$")
_DOTTED = re.compile(r"^(base_model\.model\.|transformer\.|unet\.)")


@dataclass(frozen=True)
class Part:
    """A tensor of an adapter.

    layer : name of the layer in the file
    part : role of the tensor in the adapter, such as 'lora_down'
    leaf : '.weight', '.bias' or empty
    """

    layer: str
    part: str
    leaf: str


@dataclass(frozen=True)
class Contents:
    """What the names in an adapter's file show.

    parts : part of each tensor, by the name of the tensor
    layers : name of each layer in the adapted model, by the name in the file
    members : tensors of each layer, by part, without biases
    base : family of the adapted model; None if the family is not recognised
    base_shapes : stand-ins for the shapes of the adapted weights; a family reads only the names, and whether a layer
        has a kernel
    """

    parts: dict[str, Part]
    layers: dict[str, str]
    members: dict[str, dict[str, str]]
    base: Family | None
    base_shapes: Shapes


class Adapter:
    """The family of adapter files. The family of the adapted model supplies the properties of the layers."""

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
        if part.part in _CARRIERS and 2 < len(shape) < 6 and max(shape[2:]) > 1:
            return replace(known or LayerFacts(), layout="OI" + "DHW"[5 - len(shape) :])
        if part.part == "lokr_w2_b" and "lokr_t2" not in parts and _is_flattened(shape):  # (rank, in * 3 * 3)
            return replace(known or LayerFacts(), layout="OIHW", view=(shape[0], shape[1] // 9, 3, 3))
        return None

    def gives_image(self, shapes: Shapes) -> bool:
        return True

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
            return ("this adapter has no kernels: use it unchanged with the rescaled model",)
        if base is None:
            return ("this adapter is for a model of unknown family: every kernel is rescaled, assuming stride 1",)
        return (f"this adapter is for a {base.name}: rescale that model with the same options, and use both together",)


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
    """Return the family of the adapted model, and the shapes with stand-ins.

    An adapter holds only some layers, so the layers that identify a UNet are added as stand-ins.
    """
    original = next((m for name in shapes if (m := re.match(r"(.*?)(input|output|middle)_blocks?\.\d", name))), None)
    marks: tuple[str, ...] = ()
    if original:
        unet = original[1]
        marks = (f"{unet}input_blocks.0.0.weight", f"{unet}input_blocks.3.0.op.weight")
        # First and last blocks of the levels in Stable Diffusion 1, 2 and XL, which have two blocks per level.
        if not any(name.endswith(".0.op.weight") for name in shapes):
            shapes = {**shapes, marks[1]: _KERNEL}
        outputs = [int(m[1]) for name in shapes if (m := re.search(r"output_blocks\.(\d+)\.", name))]
        if outputs and not any(re.search(r"output_blocks\.\d+\.\d\.conv\.weight$", name) for name in shapes):
            shapes = {**shapes, f"{unet}output_blocks.{max(max(outputs) - 3, 0)}.1.conv.weight": _KERNEL}
    elif any(re.match(r"(down|up)_blocks\.\d|mid_block\.", name) for name in shapes):
        marks = ("conv_in.weight", "down_blocks.0.x.weight", "up_blocks.0.x.weight", "time_embedding.x.weight")
    return recognise({**shapes, **dict.fromkeys(marks, _KERNEL)}), shapes


def base_layer(layer: str) -> str:
    """Return the name of a layer in the adapted model.

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
    """Whether the adapted layer has a kernel of more than one tap, flattened or not."""
    if any(len(shape) > 2 and max(shape[2:]) > 1 for part, shape in parts.items() if part != "dora_scale"):
        return True
    flattened = [parts[n] for n in ("lokr_w2_b", "hada_w1_b") if n in parts and "hada_t1" not in parts]
    flattened = [] if "lokr_t2" in parts else flattened
    return bool(flattened) and bool(_WHOLE_KERNELS.search(layer)) and _is_flattened(flattened[0])


def _is_flattened(shape: tuple[int, ...]) -> bool:
    """Whether a matrix can hold flattened kernels of 3x3 taps in its rows."""
    return len(shape) == 2 and shape[1] % 9 == 0


def _refusal(parts: Mapping[str, tuple[int, ...]]) -> str:
    """Return why the adapter of a layer with a kernel cannot be rescaled exactly; empty if it can."""
    merge = "merge the adapter into the model and convert the merged model"
    if any(part.startswith("hada_") for part in parts):
        return f"LoHa multiplies two kernels tap by tap, so rescaling the factors does not rescale the product; {merge}"
    if "dora_scale" in parts or "lora_magnitude_vector" in parts:
        return f"DoRA divides by the norm of the whole weight, and the norm changes with the size; {merge}"
    with_kernel = [p for p, s in parts.items() if p in _CARRIERS | {"lokr_w1"} and len(s) > 2 and max(s[2:]) > 1]
    if len(with_kernel) > 1:
        return f"{' and '.join(sorted(with_kernel))} both have a kernel, and only one of them may have one; {merge}"
    if with_kernel == ["lokr_w1"]:
        return f"the kernel is in lokr_w1, where known tools do not store one; {merge}"
    return ""
