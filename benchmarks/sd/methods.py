"""Put a method of the study on a loaded pipeline, and take it off again.

Scope: what is attached, and how a picture is drawn. Not here: loading, records and failures (see `generation`), the
methods of others (see `peers`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from peers import ADAPTERS, Draw, NotApplicableError
from PIL import Image
from study import PEERS, Method, Model

from rekernel.diffusion import GuidedCascade, RescaledPositions, SupersampledKernels, UpsampleGuidance
from rekernel.diffusion.cascade.networks import Networks
from rekernel.diffusion.cascade.sizes import geometry_of
from rekernel.errors import RekernelError

_PARTS: tuple[tuple[str, type[Any]], ...] = (
    ("kernels", SupersampledKernels), ("positions", RescaledPositions), ("guidance", UpsampleGuidance),
)  # in the order of attaching  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """The sides of the trained size and of the divisor of sizes, in pixels."""

    trained: int
    multiple: int

    def side(self, area: float) -> int:
        """The side of a square of `area` times the trained area, to the nearest multiple.

        Examples
        --------
        >>> Sizes(512, 8).side(2), Sizes(512, 8).side(4), Sizes(1024, 16).side(2)
        (728, 1024, 1456)
        """
        return self.multiple * math.floor(self.trained * math.sqrt(area) / self.multiple + 0.5)


def sizes_of(pipe: Any, model: Model) -> Sizes:
    """The sizes of a pipeline; the study may say them, else its config does.

    Raises
    ------
    RekernelError
        Where neither says the trained size, and for one that the pipeline cannot have.
    """
    target = Networks(pipe).main
    geometry = geometry_of(pipe, target.network, target.trained)
    found = geometry.trained or geometry.usual
    if model.trained is None and found is None:
        raise RekernelError(f"{type(pipe).__name__}: its config has no trained size; write trained: in the study")
    multiple = model.multiple or geometry.multiple
    trained = model.trained or min(found or ())
    if trained % geometry.multiple or multiple % geometry.multiple:
        raise RekernelError(
            f"{type(pipe).__name__} takes multiples of {geometry.multiple}, and the study has a trained size of "
            f"{trained} and a multiple of {multiple}"
        )
    return Sizes(trained, multiple)


@contextmanager
def attached(pipe: Any, method: Method, model: Model, sizes: Sizes, side: int) -> Iterator[tuple[Draw, str]]:
    """The function that draws a picture by a method, and what is attached in words.

    Raises
    ------
    NotApplicableError
        For a method that this pipeline or this machine cannot run.
    """
    call = {"num_inference_steps": model.steps, "guidance_scale": model.cfg, "output_type": "pil", **model.call}
    if model.negative_prompt:
        call["negative_prompt"] = model.negative_prompt
    _check_network(pipe, method)
    if method.kind == "peer":
        assert method.peer is not None
        options = {**PEERS[method.peer], **method.options}
        with ADAPTERS[method.peer].attached(pipe, side, sizes.trained, call, options) as draw:
            yield draw, f"{method.peer} {options}"
        return
    with ExitStack() as stack:
        try:
            draw, said = _own(pipe, method, sizes, side, call, stack)
        except RekernelError as error:
            raise NotApplicableError(str(error)) from None
        yield draw, said


def _check_network(pipe: Any, method: Method) -> None:
    """Raise for a method that is meant for the other kind of network."""
    has = "unet" if getattr(pipe, "unet", None) is not None else "transformer"
    wanted = method.only or ("unet" if method.kernels else "transformer" if method.positions else has)
    if wanted != has:
        raise NotApplicableError(f"it is for a {wanted}, and {type(pipe).__name__} has a {has}")


def _own(
    pipe: Any, method: Method, sizes: Sizes, side: int, call: dict[str, Any], stack: ExitStack
) -> tuple[Draw, str]:
    trained, scale = sizes.trained, side / sizes.trained
    if method.kind == "enlarged":

        def enlarged(prompt: str, generator: Any) -> Image.Image:
            small = pipe(prompt, height=trained, width=trained, generator=generator, **call).images[0]
            return small.resize((side, side), Image.Resampling.BICUBIC)

        return enlarged, "nothing: a sample of the trained size, enlarged bicubically"
    if method.kind == "cascade":
        cascade = GuidedCascade(
            pipe, _stages(sizes, side), strength=method.strength, kernels=method.kernels, positions=method.positions,
            guidance=False if method.guidance is None else method.guidance,
        )  # fmt: skip
        return lambda prompt, generator: cascade(prompt, generator=generator, **call).images[0], repr(cascade)
    parts = []
    for name, kind in _PARTS:
        options = getattr(method, name)
        if options or options == {}:
            part = kind.from_options(scale, {} if options is True else options)
            parts.append(stack.enter_context(part.attach(pipe)))

    def direct(prompt: str, generator: Any) -> Image.Image:
        return pipe(prompt, height=side, width=side, generator=generator, **call).images[0]

    return direct, " + ".join(map(repr, parts)) or "nothing"


def _stages(sizes: Sizes, side: int) -> list[int]:
    """The sides of a cascade's stages: each at most about twice the one before."""
    count = max(1, math.ceil(math.log2(side / sizes.trained) - 0.1))
    factor = (side / sizes.trained) ** (1 / count)
    between = [sizes.multiple * round(sizes.trained * factor**i / sizes.multiple) for i in range(1, count)]
    return [sizes.trained, *between, side]
