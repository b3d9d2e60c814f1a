"""Check the values of the nodes, and hold them until a model samples.

Scope: numbers. Not here: widgets (see `inputs`), the model (see `model_facts`), sampling (see `sampling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rekernel.diffusion.formulas.sizes import factors_for
from rekernel.errors import RekernelError


@dataclass(frozen=True)
class Share:
    """The part of the sampling in which something acts, from noise (0) to image (1).

    start, end : as `start_percent` and `end_percent` of the nodes
    of_run : whether both count in the part of the schedule that a sampler runs, and not in the whole schedule
    """

    start: float
    end: float
    of_run: bool = False

    def __post_init__(self) -> None:
        if self.start > self.end:
            raise RekernelError(
                f"start_percent {self.start:g} comes after end_percent {self.end:g}; set start_percent to a smaller "
                f"number (0 starts with the first step)"
            )

    def holds(self, noisy: float, first: float) -> bool:
        """Whether a time lies in this part.

        Parameters
        ----------
        noisy : position of the time in the schedule: 1 is pure noise, 0 the image
        first : that of the sampler's first step

        Examples
        --------
        >>> Share(0.0, 0.6).holds(0.41, 1.0), Share(0.0, 0.6).holds(0.39, 1.0), Share(0.0, 0.0).holds(1.0, 1.0)
        (True, False, False)
        >>> Share(0.0, 0.6, of_run=True).holds(0.21, 0.5), Share(0.0, 0.6, of_run=True).holds(0.19, 0.5)
        (True, False)
        """
        whole = first if self.of_run else 1.0
        late = self.end > 0 and noisy >= whole * (1 - self.end) - _NEAR
        return late and (self.start == 0 or noisy <= whole * (1 - self.start) + _NEAR)


_NEAR = 1e-6  # ComfyUI's sigmas are float32


@dataclass(frozen=True)
class Size:
    """How large the picture is, compared with those that the model was trained on.

    scale : size over trained size; 0 to compute it from the latent
    trained : pixels along a side of the trained pictures; 0 for the usual ones of the model
    """

    scale: float = 0.0
    trained: int = 0

    def __post_init__(self) -> None:
        if 0 < self.scale < 1:
            raise RekernelError(
                f"scale {self.scale:g} would make the picture smaller than the trained size; use 0 to compute the "
                f"scale from the latent, or a number of at least 1"
            )

    def factors(self, latent: Sequence[int], usual: int | None, cell: int, kind: str) -> tuple[float, ...]:
        """Size over trained size for each axis of a latent.

        Parameters
        ----------
        latent : pixels of the latent, per axis
        usual : pixels along a side of the trained pictures of this kind of model, or None where that is not known
        cell : pixels of the picture for one of the latent
        kind : the model, for messages

        Examples
        --------
        >>> Size().factors((128, 192), 512, 8, "SD15"), Size(2.0).factors((128, 192), 512, 8, "SD15")
        ((2.0, 3.0), (2.0, 2.0))
        """
        if self.scale:
            return factors_for(self.scale, latent, None)
        trained = self.trained or usual
        if not trained:
            raise RekernelError(
                f"scale 0 computes the scale from the latent, but the trained size of a {kind} model is not known "
                f"here; set trained_size to it in pixels, for example 1024, or set scale"
            )
        side = max(1, round(trained / cell))
        return factors_for("auto", latent, (side, side))


@dataclass(frozen=True)
class Guidance:
    """What *Upsample Guidance* and *Guided Cascade Stage* ask for.

    size : Size
    strength : theta
    when : Share
    levels : number of nested passes; None for one for each doubling
    """

    size: Size
    strength: float
    when: Share
    levels: int | None = None


@dataclass(frozen=True)
class Kernels:
    """What *Rescaled Kernels* asks for.

    size : Size
    method : 'optimal' or 'dilate'
    when : Share
    """

    size: Size
    method: str
    when: Share
