"""Families of vision models: ViT, ResNet, ConvNeXt and plain MLPs; and transformers without kernels."""

from __future__ import annotations

import re
from functools import lru_cache

from ..messages.note import Note
from ..patterns import hinted
from .base import MAKES_IMAGES, LayerFacts, Shapes, has_all


class ViT:
    """Vision transformers of timm, Hugging Face and DINOv2.

    Depth models (DPT) are excluded: their decoders divide the image by a separate patch size, which does not follow the
    rescaled patches.
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
            return LayerFacts("patch", stride=shapes[name][-1], padding=(0, 0), reads_image=True)
        if self._positions.search(name) and (len(shapes[name]) in (2, 3) or _is_map(shapes[name])):
            return LayerFacts("positions")
        return None

    def gives_image(self, shapes: Shapes) -> bool:
        return has_all(shapes, _SEGMENTS)

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        chosen = [n for n in shapes if self._patch.search(n) or self._positions.search(n)]
        return {"patch": tuple(chosen)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()

    def _patch_of(self, shapes: Shapes) -> str | None:
        return next((n for n, shape in shapes.items() if self._patch.search(n) and len(shape) == 4), None)


def _is_map(shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of a table of positions (1, H, W, C)."""
    return len(shape) == 4 and shape[0] == 1 and shape[1] > 1 and shape[2] > 1


class ResNet:
    """ResNets of torchvision, timm and Hugging Face, alone or as the trunk of another network."""

    name = "ResNet"
    default = "all"
    _stem = re.compile(r"^(.*\.)?conv1(\.[036])?\.weight$")  # timm's deep stem: three 3x3 layers, the first strided
    _block = re.compile(r"(^|\.)layer(\d)\.(\d+)\.(conv\d|downsample\.\d)\.weight$")
    _hf_stem = re.compile(r"(^|\.)embedder\.embedder\.convolution\.weight$")
    _hf_block = re.compile(r"stages\.(\d+)\.layers\.(\d+)\.(layer\.\d|shortcut)\.convolution\.weight$")

    def recognises(self, shapes: Shapes) -> bool:
        if has_all(shapes, r"(^|\.)attnpool\."):  # the variant of CLIP, which pools instead of striding
            return False
        if has_all(shapes, r"(^|\.)layer1\.0\.conv1\.weight$", r"(^|\.)layer2\.0\."):
            return True
        stems = [shape for name, shape in shapes.items() if self._hf_stem.search(name)]
        # RegNet uses the same names, but has a 3x3 stem and a stride in the first stage.
        return has_all(shapes, r"stages\.\d+\.layers\.0\.layer\.0\.") and any(s[-2:] == (7, 7) for s in stems)

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        shape = shapes[name]
        if len(shape) != 4:
            return None
        if self._hf_stem.search(name):
            return LayerFacts(stride=2, padding=(3, 3), reads_image=True)
        if (m := self._stem.match(name)) and f"{m[1] or ''}layer1.0.conv1.weight" in shapes:
            if m[2]:
                return LayerFacts(stride=2, reads_image=True) if shape[1] <= 4 else LayerFacts()
            if shape[-1] == 7:
                return LayerFacts(stride=2, padding=(3, 3), reads_image=True)
            return LayerFacts(stride=0, reads_image=True)  # 3x3 stems have stride 1 or 2
        if m := self._block.search(name):
            if int(m[2]) > 2 and _labels_pixels(tuple(shapes.items())):
                return None
            # A bottleneck has the stride in the 3x3 layer (torchvision and timm), a basic block in the first layer.
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

    def gives_image(self, shapes: Shapes) -> bool:
        return _labels_pixels(tuple(shapes.items())) or has_all(shapes, MAKES_IMAGES)

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        return {"all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        notes: list[str] = []
        if any(shape[-2:] == (7, 7) for shape in shapes.values() if len(shape) == 4):
            notes.append("the 3x3 max pooling after the first convolution has no weights: dilate it by the scale")
        if _labels_pixels(tuple(shapes.items())):
            notes.append(
                Note(
                    "this network has a segmentation head: the ResNet before such a head usually has dilations instead "
                    "of strides, which no name shows. Stride 1 is assumed from layer3 on. For a layer with a stride, "
                    "pass ",
                    hinted("stride", "NAME", 2),
                    "; for a dilated layer, pass ",
                    hinted("dilation", "NAME", 2),
                    ". rekernel.torch.rescale reads strides and dilations from the model",
                )
            )
        return tuple(notes)


_SEGMENTS = r"(^|\.)(aux_classifier|auxiliary_head|decode_head|aspp|psp|ppm)\.|(^|\.)convs\.\d+\.\d+\.weight$"


@lru_cache(maxsize=8)  # called for every layer of a trunk, and each call searches all names
def _labels_pixels(tensors: tuple[tuple[str, tuple[int, ...]], ...]) -> bool:
    """Whether the last stages of a trunk may be dilated, since the network labels pixels (DeepLab, FCN, PSPNet).

    A network with a feature pyramid (UPerNet) keeps the strides, so the answer is no.
    """
    shapes = dict(tensors)
    if has_all(shapes, r"(^|\.)fpn_convs\."):
        return False
    fully = any(len(s) == 4 and re.search(r"(^|\.)classifier\.\d+\.weight$", n) for n, s in shapes.items())
    return fully or has_all(shapes, _SEGMENTS)


class ConvNeXt:
    """ConvNeXt of the original authors, timm, torchvision and Hugging Face."""

    name = "ConvNeXt"
    default = "all"
    _depthwise = re.compile(r"(dwconv|conv_dw|block\.0)\.weight$")

    def recognises(self, shapes: Shapes) -> bool:
        depthwise = [s for n, s in shapes.items() if self._depthwise.search(n) and len(s) == 4]
        return bool(depthwise) and all(s[1:] == (1, 7, 7) for s in depthwise) and len(self._patchify(shapes)) > 1

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        if name in self._patchify(shapes):
            stem = shapes[name][-1] == 4
            return LayerFacts(stride=shapes[name][-1], padding=(0, 0), reads_image=stem)
        return LayerFacts() if self._depthwise.search(name) else None

    def gives_image(self, shapes: Shapes) -> bool:
        return has_all(shapes, _SEGMENTS) or has_all(shapes, MAKES_IMAGES)

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        return {"all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()

    @staticmethod
    def _patchify(shapes: Shapes) -> set[str]:
        """Return the names of the stem and the downsamplers; their kernels, 4 and 2, equal their strides."""
        return {n for n, s in shapes.items() if len(s) == 4 and s[2:] in ((4, 4), (2, 2)) and s[1] > 1}


class _WithoutKernels:
    """What the names of a network of fully connected layers tell of them: nothing."""

    default = "all"

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        return None

    def gives_image(self, shapes: Shapes) -> bool:
        return False

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        return {"all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()


class Transformer(_WithoutKernels):
    """Transformers without kernels: text encoders (CLIP, T5), language models."""

    name = "transformer"
    _attention = (
        r"(?i)(^|[._/])(self_?attn|attn\d?|self_?attention|attention|enc_?dec_?attention|q_proj|to_q|query|c_attn)[._/]"
    )

    def recognises(self, shapes: Shapes) -> bool:
        return all(len(s) <= 2 for s in shapes.values()) and has_all(shapes, self._attention)


class MLP(_WithoutKernels):
    """Networks of fully connected layers, biases and norms only."""

    name = "plain MLP"

    def recognises(self, shapes: Shapes) -> bool:
        matrices = [s for s in shapes.values() if len(s) == 2]
        attends = Transformer().recognises(shapes)
        return len(matrices) > 1 and all(len(s) <= 2 for s in shapes.values()) and self._chains(shapes) and not attends

    @staticmethod
    def _chains(shapes: Shapes) -> bool:
        """Whether every layer but one reads the output of another layer."""
        matrices = [s for s in shapes.values() if len(s) == 2]
        written = {s[0] for s in matrices}
        return sum(s[1] not in written for s in matrices) <= 1 and len(matrices) <= 32
