"""Families of vision models: ViT, ResNet, ConvNeXt and plain MLPs."""

from __future__ import annotations

import re
from functools import lru_cache

from .base import LayerFacts, Shapes, has_all


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
        if self._patch_of(shapes) is None or has_all(shapes, self._decoder):
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
        if has_all(shapes, r"(^|\.)attnpool\."):  # CLIP's variant, which pools where the others stride
            return False
        if has_all(shapes, r"(^|\.)layer1\.0\.conv1\.weight$", r"(^|\.)layer2\.0\."):
            return True
        stems = [shape for name, shape in shapes.items() if self._hf_stem.search(name)]
        # RegNet has the same names, but its first stage strides too; its stem is 3x3.
        return has_all(shapes, r"stages\.\d+\.layers\.0\.layer\.0\.") and any(s[-2:] == (7, 7) for s in stems)

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
    if has_all(shapes, r"(^|\.)fpn_convs\."):
        return False
    fully = any(len(s) == 4 and re.search(r"(^|\.)classifier\.\d+\.weight$", n) for n, s in shapes.items())
    return fully or has_all(shapes, _SEGMENTS)


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
