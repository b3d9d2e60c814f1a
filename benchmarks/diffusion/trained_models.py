"""The three trained models of the cascade benchmark: how each is loaded, called and judged.

Scope: names, sizes and judges. Not here: ways of sampling (see `cascade_rows`) and running them (see `cascades`).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "accuracy"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "diffusion_common"))

import torch
from diffusers.utils import logging
from torch import Tensor

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TRAINED = 16
TRUE_SEED = 57  # of true glyphs that neither the judges nor their references have seen
Figures = dict[str, list[float]]  # value, and the ends of its 95 % interval


@dataclass(frozen=True)
class TrainedModel:
    """One model and how its samples are judged.

    name : name of the folder in examples/
    title : the model in words
    sizes : sizes in pixels at which it is sampled; it was trained at 16
    cfg : scale of classifier-free guidance of all rows but those that say another
    steps : sampling steps from pure noise
    recognised : name of the figure that tells how many pictures show what was asked for
    judge : function (images (N, S, S) in [0, 1], labels (N,)) -> figures
    true : function (count, size) -> true pictures and their labels
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    cfg: float
    steps: int
    recognised: str
    judge: Callable[[Tensor, Tensor], Figures]
    true: Callable[[int, int], tuple[Tensor, Tensor]]

    def load(self) -> Any:
        """The pipeline in float32, quiet."""
        from samples import load

        logging.set_verbosity_error()
        return load(EXAMPLES / self.name)


def _glyph_figures(images: Tensor, labels: Tensor) -> Figures:
    from diffusion_metrics import Reference

    size = images.shape[-1]
    found = Reference.of_size(size).measure(images.numpy(), labels.numpy())
    figures = {name: [m.value, m.low, m.high] for name, m in found.items()}
    if size == 4 * TRAINED:
        halves = torch.nn.functional.avg_pool2d(images[:, None], 2)[:, 0]
        half = Reference.of_size(size // 2).measure(halves.numpy(), labels.numpy())["frechet"]
        figures["frechet_halved"] = [half.value, half.low, half.high]
    return figures


def _true_glyphs(count: int, size: int) -> tuple[Tensor, Tensor]:
    from glyph_features import true_glyphs

    images, labels = true_glyphs(count, TRUE_SEED, size)
    return torch.as_tensor(images), torch.as_tensor(labels)


def _fashion_figures(images: Tensor, labels: Tensor) -> Figures:
    from fashion_judge import judge

    return {name: [m.value, m.low, m.high] for name, m in judge(images[:, None], labels).items()}


def _true_clothes(count: int, _size: int) -> tuple[Tensor, Tensor]:
    from fashion_judge import held_back

    images, labels = held_back(count)
    return images[:, 0], labels


MODELS = {
    "glyphs": TrainedModel(
        "glyph_diffusion", "glyphs, UNet (DDPM)", (32, 64), 1.0, 20, "sure", _glyph_figures, _true_glyphs
    ),
    "fashion": TrainedModel(
        "fashion_diffusion", "clothes, UNet (DDPM)", (32,), 1.0, 20, "recognised", _fashion_figures, _true_clothes
    ),
    "transformer": TrainedModel(
        "glyph_transformer", "glyphs, transformer (flow matching)", (32,), 1.0, 20, "sure", _glyph_figures, _true_glyphs
    ),
}
