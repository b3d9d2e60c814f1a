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
Typed = dict[str, Any] | Literal[False] | None
# In the order in which they are attached.
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
    guidance, kernels, positions : arguments of `UpsampleGuidance`, `SupersampledKernels` and `RescaledPositions`; None
        where nothing was typed, which means what the folder records; False for none
    cascade : strengths of a `GuidedCascade`; None and False as for these
    allow_code : whether the folder's own Python code may run
    """

    folder: Path
    size: Size | None
    count: int
    steps: int
    seed: int
    classes: tuple[range, ...] | None
    cfg: float | None
    prompt: str | None
    guidance: Typed = None
    kernels: Typed = None
    positions: Typed = None
    cascade: tuple[float, ...] | Literal[False] | None = None
    allow_code: bool = False

    @property
    def typed(self) -> tuple[str, ...]:
        """The options that ask for something above the trained size, as they were typed."""
        given = {name: getattr(self, name) for name in (*_KINDS, "cascade")}
        return tuple(f"--{name}" for name, value in given.items() if value not in (None, False))

    def options(self, record: Recorded | None) -> dict[str, Mapping[str, Any]]:
        """The options of each part, typed or else recorded, in the order in which the parts are attached."""
        typed = {name: getattr(self, name) for name in _KINDS}
        found = {name: getattr(record, name, None) if given is None else given for name, given in typed.items()}
        return {name: given for name, given in found.items() if given not in (None, False)}

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

    parts : kernels, positions, then guidance, not attached yet; empty for a cascade, which attaches its own
    cascade : arguments of `GuidedCascade` except for its sizes, or None
    trained, size : the first and the last size of the cascade
    """

    parts: list[Any]
    cascade: dict[str, Any] | None = None
    trained: Size = (0, 0)
    size: Size = (0, 0)


def above_of(request: Request, record: Recorded | None, sizes: Sizes) -> Above:
    """Return how to sample above the trained size: each part as typed, or else as recorded.

    Raises
    ------
    RekernelError
        If what was typed cannot act: at or below the trained size, or on rescaled weights.
    """
    options, typed = request.options(record), request.typed
    strengths = record.cascade if record is not None and request.cascade is None else request.cascade
    if typed and sizes.rescaled:
        raise RekernelError(
            "the folder's weights are rescaled already; --guidance, --kernels, --positions and --cascade need the "
            "original folder"
        )
    if not options and not strengths:
        return Above([])
    scale = _scale(request, sizes)
    assert sizes.trained is not None
    if max(scale) <= 1:
        if typed:
            raise RekernelError(
                f"{' and '.join(typed)}: the size is not above the trained size {_text(sizes.trained)}; pass a larger "
                f"--size"
            )
        return Above([])
    if not strengths:
        return Above([_KINDS[name].from_options(scale, given) for name, given in options.items()])
    made: dict[str, Any] = {name: options.get(name) for name in _KINDS}
    if made["guidance"] is None and (request.guidance is False or not request.cascade):
        made["guidance"] = False  # a typed cascade is guided by default; a recorded one has no guidance to record
    if not request.cascade:
        stages = len(octaves(scale))
        strengths = (strengths + strengths[-1:] * stages)[:stages]
    made["strength"] = strengths[0] if len(strengths) == 1 else strengths
    return Above([], made, sizes.trained, size_of(request, sizes))


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


def _text(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def pair(size: Any, times: int = 1) -> Size | None:
    """Return a config's sample_size, multiplied by `times`, as (height, width) in pixels; None if there is none."""
    if isinstance(size, int):
        return (size * times, size * times)
    if not isinstance(size, list | tuple) or len(size) < 2:
        return None
    return (int(size[-2]) * times, int(size[-1]) * times)
