"""The request of `rekernel sample`, and what to attach for a trained and a requested size.

Scope: `rekernel.diffusion` and numbers. Not here: loading a pipeline (see `sampling.pipeline`, `sampling.pixels`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rekernel.diffusion import Recorded, RescaledPositions, SupersampledKernels, UpsampleGuidance
from rekernel.errors import RekernelError

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Request:
    """The request of the command line.

    folder : folder of the pipeline
    size : size in pixels; None for the size of the folder
    count, steps, seed : number of pictures, number of steps and seed of the initial noise
    classes : ranges of class numbers; None for the classes of the model
    cfg : scale of classifier-free guidance; None for the default of the pipeline
    prompt : text for a text-to-image pipeline, or None
    guidance, kernels, positions : arguments of `UpsampleGuidance`, `SupersampledKernels` and `RescaledPositions`; None
        to attach none
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
    positions: dict[str, Any] | None
    recorded: bool

    @property
    def typed(self) -> bool:
        """Whether guidance, kernels or positions were typed."""
        return any(part is not None for part in (self.guidance, self.kernels, self.positions))

    def class_numbers(self, known: int, usual: int) -> list[int]:
        """Return a class for each picture, in turn: the requested classes, or the first `usual` of `known` classes."""
        wanted = (range(max(1, usual)),) if self.classes is None else self.classes
        if max(part[-1] for part in wanted) >= known:
            raise RekernelError(f"--classes: this model has the classes 0 to {known - 1}")
        numbers = [number for part in wanted for number in part]
        return [numbers[i % len(numbers)] for i in range(self.count)]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a folder's pictures, in pixels.

    trained : trained size; None if the config has no size
    usual : default size of the folder: the recorded size, or else the trained size
    rescaled : whether the weights in the folder are rescaled
    """

    trained: Size | None
    usual: Size | None
    rescaled: bool


def size_of(request: Request, sizes: Sizes) -> Size:
    """Return the size of the pictures: the requested size, or the default of the folder."""
    size = request.size or sizes.usual
    if size is None:
        raise RekernelError("the denoiser's config has no sample_size, so the size is unknown; pass --size")
    return size


def attachments(request: Request, record: Recorded | None, sizes: Sizes) -> list[Any]:
    """Return kernels, positions, then guidance, as typed or else as recorded; they are not attached yet.

    Raises
    ------
    RekernelError
        If something typed cannot act: at or below the trained size, or on rescaled weights.
    """
    typed = request.typed
    if not typed and (record is None or not request.recorded):
        return []
    if typed and sizes.rescaled:
        raise RekernelError(
            "the folder's weights are rescaled already; --guidance, --kernels and --positions need the original folder"
        )
    scale = _scale(request, sizes)
    if max(scale) <= 1:
        if typed:
            raise RekernelError(
                "the size is not above the trained size, so guidance has no effect; pass a larger --size"
            )
        return []
    if not typed:
        assert record is not None
        return list((record if request.size is None else replace(record, scale=scale)).parts())
    kinds: dict[Any, dict[str, Any] | None] = {
        SupersampledKernels: request.kernels,
        RescaledPositions: request.positions,
        UpsampleGuidance: request.guidance,
    }
    return [kind.from_options(scale, options) for kind, options in kinds.items() if options is not None]


def _scale(request: Request, sizes: Sizes) -> tuple[float, float]:
    if sizes.trained is None:
        raise RekernelError("the denoiser's config has no sample_size, so the trained size is unknown")
    (height, width), (tall, wide) = size_of(request, sizes), sizes.trained
    scale = (height / tall, width / wide)
    if min(scale) < 1 < max(scale):
        raise RekernelError(
            f"--size {width}x{height}: one side is below the trained size {wide}x{tall}, the other is above"
        )
    return scale


def pair(size: Any, times: int = 1) -> Size | None:
    """Return a config's sample_size, multiplied by `times`, as (height, width) in pixels; None if there is none."""
    if isinstance(size, int):
        return (size * times, size * times)
    if not isinstance(size, list | tuple) or len(size) < 2:
        return None
    return (int(size[-2]) * times, int(size[-1]) * times)
