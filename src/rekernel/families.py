"""Architectures recognised from a checkpoint's keys: the strides that shapes cannot tell, and which layers to rescale.

Knows names and shapes of well-known layouts; no scale, method or file. To add a family, write a class with the four
members of `Family` and list it in `FAMILIES`, the specific before the general.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Protocol

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerFacts:
    """What a layer's name tells beyond its shape.

    role : 'conv', 'conv-transpose', 'patch' (stride = kernel, no overlap), 'positions' (values on the token grid)
    stride : along every spatial axis
    padding : (left, right); None is 'same' for odd kernels
    prefix : class and register tokens in front of the grid, for 'positions'
    layout : axes of the weight, where its name does not end as a weight's
    view : shape of the kernel, where the tensor holds it flattened
    refusal : why the tensor cannot be rescaled; whoever selects it is told
    """

    role: str = "conv"
    stride: int = 1
    padding: tuple[int, int] | None = None
    prefix: int = 0
    layout: str = ""
    view: tuple[int, ...] = ()
    refusal: str = ""


class Family(Protocol):
    """One architecture's naming scheme."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def default(self) -> str:
        """The preset used where nothing is included by hand."""

    def recognises(self, shapes: Shapes) -> bool:
        """Whether a checkpoint with these tensors is of the family."""

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        """What is known of tensor `name`; None where it is no layer of the family, so that its stride is a guess."""

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        """Patterns by preset name, only such as have a tensor to match."""

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        """What must change in the model that no tensor shows."""


def recognise(shapes: Shapes) -> Family | None:
    """The first family that recognises the keys.

    Examples
    --------
    >>> recognise({"fc.weight": (10, 3)}) is None
    True
    """
    return next((family for family in FAMILIES if family.recognises(shapes)), None)


def exactly(names: Iterable[str]) -> tuple[str, ...]:
    """One pattern that matches these names and no other; none where there are none.

    Examples
    --------
    >>> exactly(["a.b", "c"])
    ('re:a\\\\.b|c',)
    """
    joined = "|".join(re.escape(name) for name in names)
    return (f"re:{joined}",) if joined else ()


def _has(shapes: Shapes, *patterns: str) -> bool:
    return all(any(re.search(pattern, name) for name in shapes) for pattern in patterns)


def _indices(shapes: Shapes, pattern: str) -> list[int]:
    """Sorted numbers that the pattern's group takes among the names."""
    return sorted({int(m[1]) for name in shapes if (m := re.search(pattern, name))})


class DiffusersUNet:
    """diffusers UNet2DModel, UNet2DConditionModel and kin."""

    name = "diffusers UNet"
    default = "inner"

    def recognises(self, shapes: Shapes) -> bool:
        return _has(shapes, r"^conv_in\.weight$", r"^down_blocks\.0\.", r"^up_blocks\.0\.", r"^time_embedding\.")

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        if re.search(r"\.downsamplers\.\d+\.conv\.weight$", name):
            return LayerFacts(stride=2, padding=(1, 1))
        return LayerFacts()

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        down, up = (_indices(shapes, rf"^{side}_blocks\.(\d+)\.") for side in ("down", "up"))
        finest = max(down[-1:] + up[-1:], default=0)  # adapters of it lack blocks
        inner = [f"down_blocks.{i}.*" for i in down if i > 0] + [f"up_blocks.{i}.*" for i in up if i < finest]
        inner += [p for p, there in (("mid_block.*", "mid_block."),) if any(n.startswith(there) for n in shapes)]
        inner += [f"*.{part}.*" for part in ("downsamplers", "upsamplers") if _has(shapes, rf"\.{part}\.")]
        return {"inner": tuple(inner), "all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()


class AutoencoderKL:
    """diffusers AutoencoderKL."""

    name = "diffusers AutoencoderKL"
    default = "all"

    def recognises(self, shapes: Shapes) -> bool:
        return _has(shapes, r"^encoder\.conv_in\.weight$", r"^decoder\.conv_in\.weight$", r"^encoder\.down_blocks\.0\.")

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        # diffusers pads by hand, right and bottom only, before a convolution without padding.
        return LayerFacts(stride=2, padding=(0, 1)) if ".downsamplers." in name else LayerFacts()

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        return {"all": ("*",), "encoder": ("encoder.*",), "decoder": ("decoder.*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()


class SingleFileDiffusion:
    """Stable Diffusion 1.x, 2.x and XL as one file with the original key names, or its UNet alone (ComfyUI)."""

    name = "Stable Diffusion single file"
    default = "inner"
    _prefixes = ("model.diffusion_model.", "diffusion_model.", "")
    _layers = re.compile(r"^((model\.)?diffusion_model\.)?(input_blocks|middle_block|output_blocks|out)\.")
    _beside = ("first_stage_model.", "model_ema.")

    def recognises(self, shapes: Shapes) -> bool:
        prefix = self._prefix(shapes)  # without one, others too name their layers so: guided-diffusion, without `op`
        return prefix is not None and (bool(prefix) or _has(shapes, r"^input_blocks\.\d+\.0\.op\.weight$"))

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        # In averaged copies of the weights the names lose their dots: model_ema.diffusion_modelinput_blocks30opweight.
        if re.search(r"input_blocks(\.\d+\.0\.op\.|\d+op)weight$", name):
            return LayerFacts(stride=2, padding=(1, 1))
        if re.search(r"encoder\.down\.\d+\.downsample\.conv\.weight$", name):
            return LayerFacts(stride=2, padding=(0, 1))
        return LayerFacts() if self._layers.match(name) or name.startswith(self._beside) else None

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        unet = self._prefix(shapes) or ""
        downs = _indices(shapes, rf"^{re.escape(unet)}input_blocks\.(\d+)\.0\.op\.")
        ups = _indices(shapes, rf"^{re.escape(unet)}output_blocks\.(\d+)\.\d+\.conv\.")
        blocks = _indices(shapes, rf"^{re.escape(unet)}input_blocks\.(\d+)\.")
        outputs = _indices(shapes, rf"^{re.escape(unet)}output_blocks\.(\d+)\.")
        # The first downsampler ends the finest level; the last upsampler begins it again.
        inner = [f"{unet}input_blocks.{i}.*" for i in blocks if downs and i >= downs[0]]
        inner += [f"{unet}middle_block.*"] if any(n.startswith(f"{unet}middle_block.") for n in shapes) else []
        inner += [f"{unet}output_blocks.{i}.*" for i in outputs if ups and i <= ups[-1]]
        presets = {
            "inner": (*inner, *self._averaged(shapes, inner)),
            "all": (f"{unet}*", *self._averaged(shapes, [f"{unet}*"])),
        }
        if _has(shapes, r"^first_stage_model\."):
            presets["vae"] = ("first_stage_model.*",)
        return presets

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()

    def _prefix(self, shapes: Shapes) -> str | None:
        return next((p for p in self._prefixes if f"{p}input_blocks.0.0.weight" in shapes), None)

    @staticmethod
    def _averaged(shapes: Shapes, patterns: Iterable[str]) -> tuple[str, ...]:
        """The averaged copies of what the patterns match."""
        copies = {f"model_ema.{''.join(name.split('.')[1:])}": name for name in shapes if name.startswith("model.")}
        return exactly(n for n, of in copies.items() if n in shapes and any(fnmatchcase(of, p) for p in patterns))


class ViT:
    """timm, Hugging Face and DINOv2 vision transformers.

    Not those that predict depth (DPT): their decoders divide the image by a patch size of their own, so that larger
    patches do not go unnoticed.
    """

    name = "vision transformer"
    default = "patch"
    _patch = re.compile(r"(^|\.)(patch_embed\.proj|patch_embeddings(\.projection)?|conv_proj)\.weight$")
    _positions = re.compile(r"(^|\.)(pos_embed|position_embeddings|pos_embedding)$")

    _decoder = r"(^|\.)(reassemble_stage|fusion_stage|refinenet\d+)\."

    def recognises(self, shapes: Shapes) -> bool:
        if self._patch_of(shapes) is None or _has(shapes, self._decoder):
            return False
        return any(self._positions.search(name) for name in shapes)

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        if self._patch.search(name):
            return LayerFacts("patch", stride=shapes[name][-1], padding=(0, 0))
        if self._positions.search(name) and len(shapes[name]) in (2, 3):
            return LayerFacts("positions", prefix=self._prefix(shapes[name][-2]))
        return None

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        chosen = [n for n in shapes if self._patch.search(n) or self._positions.search(n)]
        return {"patch": tuple(chosen)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()

    def _patch_of(self, shapes: Shapes) -> str | None:
        return next((n for n, shape in shapes.items() if self._patch.search(n) and len(shape) == 4), None)

    @staticmethod
    def _prefix(tokens: int) -> int:
        """Tokens beyond the largest square: 1 class token, and up to 8 registers or a distillation token."""
        side = int(tokens**0.5)
        return tokens - side * side if tokens - side * side <= 9 else 0


class ResNet:
    """torchvision, timm and Hugging Face ResNets, alone or as the trunk of another network."""

    name = "ResNet"
    default = "all"
    _stem = re.compile(r"^(.*\.)?conv1(\.[036])?\.weight$")  # timm's deep one has three 3x3, of which the first strides
    _block = re.compile(r"(^|\.)layer(\d)\.(\d+)\.(conv\d|downsample\.\d)\.weight$")
    _hf_stem = re.compile(r"(^|\.)embedder\.embedder\.convolution\.weight$")
    _hf_block = re.compile(r"stages\.(\d+)\.layers\.(\d+)\.(layer\.\d|shortcut)\.convolution\.weight$")

    def recognises(self, shapes: Shapes) -> bool:
        if _has(shapes, r"(^|\.)attnpool\."):  # CLIP's variant, which pools where the others stride
            return False
        if _has(shapes, r"(^|\.)layer1\.0\.conv1\.weight$", r"(^|\.)layer2\.0\."):
            return True
        stems = [shape for name, shape in shapes.items() if self._hf_stem.search(name)]
        # RegNet has the same names, but its first stage strides too; its stem is 3x3.
        return _has(shapes, r"stages\.\d+\.layers\.0\.layer\.0\.") and any(s[-2:] == (7, 7) for s in stems)

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        shape = shapes[name]
        if len(shape) != 4:
            return None
        if self._hf_stem.search(name):
            return LayerFacts(stride=2, padding=(3, 3))
        if (m := self._stem.match(name)) and f"{m[1] or ''}layer1.0.conv1.weight" in shapes:
            if m[2]:
                return LayerFacts(stride=2) if shape[1] <= 4 else LayerFacts()
            return LayerFacts(stride=2, padding=(3, 3)) if shape[-1] == 7 else None  # 3x3 ones stride or not
        if m := self._block.search(name):
            if int(m[2]) > 2 and _labels_pixels(tuple(shapes.items())):
                return None
            # The bottleneck strides in its 3x3 (torchvision's and timm's choice), the basic block in its first.
            bottleneck = name[: m.start(4)] + "conv3.weight" in shapes
            first = m[3] == "0" and m[2] != "1"
            strided = first and m[4] in ("downsample.0", "conv2" if bottleneck else "conv1")
            return LayerFacts(stride=2) if strided else LayerFacts()
        if m := self._hf_block.search(name):
            bottleneck = name[: m.start(3)] + "layer.2.convolution.weight" in shapes
            first = m[2] == "0" and m[1] != "0"
            strided = first and m[3] in ("shortcut", "layer.1" if bottleneck else "layer.0")
            return LayerFacts(stride=2) if strided else LayerFacts()
        return None

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        return {"all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        notes = []
        if any(shape[-2:] == (7, 7) for shape in shapes.values() if len(shape) == 4):
            notes.append("the 3x3 max pooling behind the first convolution has no weights: dilate it by the scale")
        if _labels_pixels(tuple(shapes.items())):
            notes.append(
                "a head for segmentation, in front of which a ResNet is usually dilated where it strode, which no name "
                "tells: stride 1 is assumed from layer3 on. Where a layer strides, say --stride NAME=2; where it is "
                "dilated, say --dilation NAME=2. rekernel.torch.rescale reads all this off the model"
            )
        return tuple(notes)


_SEGMENTS = r"(^|\.)(aux_classifier|auxiliary_head|decode_head|aspp|psp|ppm)\.|(^|\.)convs\.\d+\.\d+\.weight$"


@lru_cache(maxsize=8)  # asked for every layer of a trunk, and all names are looked through
def _labels_pixels(tensors: tuple[tuple[str, tuple[int, ...]], ...]) -> bool:
    """Whether the last stages of a trunk may be dilated: the network labels pixels (DeepLab, FCN, PSPNet).

    Not where a feature pyramid puts what was strided together again (UPerNet).
    """
    shapes = dict(tensors)
    if _has(shapes, r"(^|\.)fpn_convs\."):
        return False
    fully = any(len(s) == 4 and re.search(r"(^|\.)classifier\.\d+\.weight$", n) for n, s in shapes.items())
    return fully or _has(shapes, _SEGMENTS)


class ConvNeXt:
    """ConvNeXt of its authors, timm, torchvision and Hugging Face."""

    name = "ConvNeXt"
    default = "all"
    _depthwise = re.compile(r"(dwconv|conv_dw|block\.0)\.weight$")

    def recognises(self, shapes: Shapes) -> bool:
        depthwise = [s for n, s in shapes.items() if self._depthwise.search(n) and len(s) == 4]
        return bool(depthwise) and all(s[1:] == (1, 7, 7) for s in depthwise) and len(self._patchify(shapes)) > 1

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        if name in self._patchify(shapes):
            return LayerFacts(stride=shapes[name][-1], padding=(0, 0))
        return LayerFacts() if self._depthwise.search(name) else None

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        return {"all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()

    @staticmethod
    def _patchify(shapes: Shapes) -> set[str]:
        """The stem and the downsamplers: kernels as large as their stride, 4 and 2."""
        return {n for n, s in shapes.items() if len(s) == 4 and s[2:] in ((4, 4), (2, 2)) and s[1] > 1}


class MLP:
    """Fully-connected layers and nothing else but biases and norms."""

    name = "plain MLP"
    default = "all"

    def recognises(self, shapes: Shapes) -> bool:
        matrices = [s for s in shapes.values() if len(s) == 2]
        return len(matrices) > 1 and all(len(s) <= 2 for s in shapes.values()) and self._chains(shapes)

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        return None

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        return {"all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()

    @staticmethod
    def _chains(shapes: Shapes) -> bool:
        """Every layer but one reads what another one writes."""
        matrices = [s for s in shapes.values() if len(s) == 2]
        written = {s[0] for s in matrices}
        return sum(s[1] not in written for s in matrices) <= 1 and len(matrices) <= 32


FAMILIES: tuple[Family, ...] = (
    DiffusersUNet(),
    AutoencoderKL(),
    SingleFileDiffusion(),
    ViT(),
    ResNet(),
    ConvNeXt(),
    MLP(),
)
