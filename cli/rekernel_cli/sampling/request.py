"""What `rekernel sample` was asked for, and what of it is attached to a pipeline of a trained and a wanted size.

Knows `rekernel.diffusion` and numbers; no pipeline is loaded here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rekernel.diffusion import Recorded, SupersampledKernels, UpsampleGuidance
from rekernel.errors import RekernelError

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Request:
    """What the command line asked for.

    size : pixels, or None for the folder's own
    classes : ranges of numbers; None for those of the model
    cfg : of classifier-free guidance; None for the pipeline's own, or none
    guidance, kernels : arguments, or None for neither
    recorded : whether to attach what the folder records
    """

    folder: Path
    size: Size | None
    count: int
    steps: int
    seed: int
    classes: tuple[range, ...] | None
    cfg: float | None
    prompt: str | None
    guidance: dict[str, Any] | None
    kernels: dict[str, Any] | None
    recorded: bool

    def class_numbers(self, known: int, usual: int) -> list[int]:
        """A class for each picture, in turn: of those asked for, or of the first `usual` of the `known` ones."""
        wanted = (range(max(1, usual)),) if self.classes is None else self.classes
        if max(part[-1] for part in wanted) >= known:
            raise RekernelError(f"--classes: this model has the classes 0 to {known - 1}")
        numbers = [number for part in wanted for number in part]
        return [numbers[i % len(numbers)] for i in range(self.count)]


@dataclass(frozen=True)
class Sizes:
    """Pixels of a folder's pictures.

    trained : None where the config does not say
    usual : of the folder: the trained size, or the one that it records
    rescaled : whether the weights are rescaled themselves
    """

    trained: Size | None
    usual: Size | None
    rescaled: bool


def size_of(request: Request, sizes: Sizes) -> Size:
    """The size to draw at: as asked for, or the folder's own."""
    size = request.size or sizes.usual
    if size is None:
        raise RekernelError("the denoiser's config has no sample_size, so the size is not known; pass --size")
    return size


def attachments(request: Request, record: Recorded | None, sizes: Sizes) -> list[Any]:
    """Kernels, then guidance, as typed or else as recorded: not attached yet.

    Raises
    ------
    RekernelError
        For what was typed and cannot act: at the trained size, below it, or on rescaled weights.
    """
    typed = request.guidance is not None or request.kernels is not None
    if not typed and (record is None or not request.recorded):
        return []
    if typed and sizes.rescaled:
        raise RekernelError("the folder's weights are rescaled already; --guidance and --kernels take the original one")
    scale = _scale(request, sizes)
    if max(scale) <= 1:
        if typed:
            raise RekernelError(
                "the size is not above the trained one, so there is nothing to guide; pass a larger --size"
            )
        return []
    if typed:
        kernels = None if request.kernels is None else SupersampledKernels.from_options(scale, request.kernels)
        guidance = None if request.guidance is None else UpsampleGuidance.from_options(scale, request.guidance)
    else:
        assert record is not None
        made = record if request.size is None else replace(record, scale=scale)
        kernels, guidance = made.make_kernels(), made.make_guidance()
    return [part for part in (kernels, guidance) if part is not None]


def _scale(request: Request, sizes: Sizes) -> tuple[float, float]:
    if sizes.trained is None:
        raise RekernelError("the denoiser's config has no sample_size, so the trained size to guide by is not known")
    (height, width), (tall, wide) = size_of(request, sizes), sizes.trained
    scale = (height / tall, width / wide)
    if min(scale) < 1 < max(scale):
        raise RekernelError(f"--size {width}x{height}: one side is below the trained {wide}x{tall}, the other above it")
    return scale


def pair(size: Any, times: int = 1) -> Size | None:
    """A config's sample_size as (height, width) in pixels, `times` to each of its own; None if it has none."""
    if isinstance(size, int):
        return (size * times, size * times)
    if not isinstance(size, list | tuple) or len(size) < 2:
        return None
    return (int(size[-2]) * times, int(size[-1]) * times)
