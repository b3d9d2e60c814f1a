"""The request of `rekernel sample`, and what to attach for a trained and a requested size.

Scope: `rekernel.diffusion` and numbers. Not here: loading a pipeline (see `sampling.pipeline`, `sampling.pixels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rekernel.diffusion import Recorded, RescaledPositions, SupersampledKernels, UpsampleGuidance, octaves
from rekernel.errors import RekernelError

Size = tuple[int, int]  # height, width
_KINDS: dict[str, Any] = {"kernels": SupersampledKernels, "positions": RescaledPositions, "guidance": UpsampleGuidance}


@dataclass(frozen=True)
class Request:
    """The request of the command line.

    folder : folder of the pipeline
    size : size in pixels; None for the size of the folder
    count, steps, seed : number of pictures, number of steps and seed of the initial noise
    classes : ranges of class numbers; None for the classes of the model
    cfg : scale of classifier-free guidance; None for the default of the pipeline
    prompt : text for a text-to-image pipeline, or None
    guidance : arguments of `UpsampleGuidance`; None if none were typed, False for no guidance
    kernels, positions : arguments of `SupersampledKernels` and `RescaledPositions`; None to attach none
    cascade : strengths of a `GuidedCascade`; None for no cascade
    recorded : whether to sample with what the folder records
    """

    folder: Path
    size: Size | None
    count: int
    steps: int
    seed: int
    classes: tuple[range, ...] | None
    cfg: float | None
    prompt: str | None
    guidance: dict[str, Any] | Literal[False] | None
    kernels: dict[str, Any] | None
    positions: dict[str, Any] | None
    cascade: tuple[float, ...] | None
    recorded: bool

    @property
    def options(self) -> dict[Any, Mapping[str, Any]]:
        """The options that were typed, by class, in the order in which the objects are attached."""
        guidance = None if self.guidance is False else self.guidance
        given = {"kernels": self.kernels, "positions": self.positions, "guidance": guidance}
        return {_KINDS[name]: options for name, options in given.items() if options is not None}

    @property
    def typed(self) -> bool:
        """Whether guidance, kernels, positions or a cascade were typed."""
        return bool(self.options) or self.cascade is not None

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


@dataclass(frozen=True)
class Above:
    """How to sample above the trained size.

    parts : kernels, positions, then guidance, not attached yet
    cascade : arguments of `GuidedCascade`, with these parts, or None
    """

    parts: list[Any]
    cascade: dict[str, Any] | None = None


def above_of(request: Request, record: Recorded | None, sizes: Sizes) -> Above:
    """Return how to sample above the trained size, as typed or else as recorded.

    Raises
    ------
    RekernelError
        If what was typed cannot act: at or below the trained size, or on rescaled weights.
    """
    typed = request.typed
    if not typed and (record is None or not request.recorded):
        return Above([])
    if typed and sizes.rescaled:
        raise RekernelError(
            "the folder's weights are rescaled already; --guidance, --kernels, --positions and --cascade need the "
            "original folder"
        )
    scale = _scale(request, sizes)
    if max(scale) <= 1:
        if typed:
            raise RekernelError(
                "the size is not above the trained size, so guidance has no effect; pass a larger --size"
            )
        return Above([])
    strengths, options = request.cascade, request.options
    if not typed:
        assert record is not None
        recorded = {"kernels": record.kernels, "positions": record.positions, "guidance": record.guidance}
        options = {_KINDS[name]: given for name, given in recorded.items() if given is not None}
        if record.cascade is not None:
            stages = len(octaves(scale))
            strengths = (record.cascade + record.cascade[-1:] * stages)[:stages]
    parts = [kind.from_options(scale, given) for kind, given in options.items()]
    if strengths is None:
        return Above(parts)
    made: dict[str, Any] = {
        name: next((p for p in parts if isinstance(p, kind)), None) for name, kind in _KINDS.items()
    }
    if made["guidance"] is None and (request.guidance is False or not typed):
        made["guidance"] = False
    return Above(parts, {"scale": scale, "strength": strengths[0] if len(strengths) == 1 else strengths, **made})


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
