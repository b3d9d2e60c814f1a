"""Read and check the record in a pipeline folder: scale, kernels, positions, guidance and cascade.

Scope: one entry of a `config.json`. Not here: writing the entry into a folder (see `write_record`), loading the
pipeline (see `load`). Format: docs/recipe.md, "Guidance".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ...checkpoint.pipeline_folder import Pipeline
from ...checkpoint.strict_json import read_object
from ...errors import RekernelError
from ...escape import shown, shown_path
from ...plan.config_file import KEY
from ...plan.plan import Plan, plan_of
from ...planning.allowed_values import LARGEST_IMAGE
from ...resampling.geometry import new_size
from ...version import __version__
from ..cascade.settings import recorded_strengths
from ..denoiser.attachable import Attachable
from ..denoiser.names import DENOISERS
from ..formulas.sizes import checked_scale
from ..guidance.settings import GuidanceSettings
from ..guidance.upsample import UpsampleGuidance
from ..kernels.settings import KernelSettings
from ..kernels.supersampled import SupersampledKernels
from ..positions.rescaled import RescaledPositions
from ..positions.settings import PositionSettings

VERSION = 1


@dataclass(frozen=True)
class Recorded:
    """The record of a folder: what `load_pipeline` attaches.

    scale : requested size over trained size, a number or one per axis
    sample_size : the trained size, on the denoiser's grid; None where neither config nor pipeline says it
    guidance : options of `UpsampleGuidance`, or None for no guidance
    kernels : options of `SupersampledKernels`, or None for original kernels
    plan : plan of weights that are rescaled in the folder itself (saved by `save_pretrained`); then all others are None
    positions : options of `RescaledPositions`, or None for trained positions
    cascade : strengths of a `GuidedCascade`, one per stage after the first, or one for all; None for no cascade
    """

    scale: float | tuple[float, ...]
    sample_size: int | tuple[int, ...] | None
    guidance: Mapping[str, Any] | None = None
    kernels: Mapping[str, Any] | None = None
    plan: Plan | None = None
    positions: Mapping[str, Any] | None = None
    cascade: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sample_size, list):  # from a config
            object.__setattr__(self, "sample_size", tuple(self.sample_size))
        _check_sample_size(self.sample_size)
        if self.plan is None:
            scale = checked_scale(self.scale)
            if isinstance(scale, str):
                raise RekernelError(
                    "scale='auto' cannot be recorded, since the new default size follows from the scale; give a number"
                )
            object.__setattr__(self, "scale", scale)
        elif any(part is not None for part in (self.guidance, self.kernels, self.positions, self.cascade)):
            raise RekernelError(
                "guidance, kernels and positions need the original weights, and these weights are rescaled themselves; "
                "give either plan=, or guidance=, kernels= and positions="
            )
        if self.guidance is not None:  # validate eagerly
            GuidanceSettings.from_options(self.scale, self.guidance)
        if self.kernels is not None:
            KernelSettings.from_options(self.scale, self.kernels)
        if self.positions is not None:
            PositionSettings.from_options(self.scale, self.positions)
        if self.cascade is not None:
            object.__setattr__(self, "cascade", recorded_strengths(self.cascade, self.scale))

    def make_guidance(self) -> UpsampleGuidance | None:
        """The guidance, not attached."""
        return None if self.guidance is None else UpsampleGuidance.from_options(self.scale, self.guidance)

    def make_kernels(self) -> SupersampledKernels | None:
        """The kernels, not attached."""
        return None if self.kernels is None else SupersampledKernels.from_options(self.scale, self.kernels)

    def make_positions(self) -> RescaledPositions | None:
        """The positions, not attached."""
        return None if self.positions is None else RescaledPositions.from_options(self.scale, self.positions)

    def parts(self) -> tuple[Attachable, ...]:
        """Everything that is recorded, not attached, in the order of attaching."""
        made = (self.make_kernels(), self.make_positions(), self.make_guidance())
        return tuple(part for part in made if part is not None)

    @property
    def new_size(self) -> int | tuple[int, ...] | None:
        """The config's sample size at the requested scale: one number where the config had one and all sides are equal.

        None where the trained size is not known.

        Examples
        --------
        >>> Recorded((2.0, 2.0, 2.0), 8).new_size, Recorded((2.0, 1.5), 8).new_size
        (16, (16, 12))
        """
        if self.sample_size is None:
            return None
        trained = self.sample_size if isinstance(self.sample_size, tuple) else (self.sample_size,) * 2
        factors = self.scale if isinstance(self.scale, tuple) else (self.scale,) * 2
        factors = ((1.0,) * len(trained) + factors)[-len(trained) :]
        sides = tuple(new_size(n, s) for n, s in zip(trained, factors, strict=True))
        return sides[0] if isinstance(self.sample_size, int) and len(set(sides)) == 1 else sides

    def to_entry(self) -> dict[str, Any]:
        """The entry of the config.

        Examples
        --------
        >>> Recorded(2.0, 64, {"theta": 1.0}).to_entry()["guidance"]
        {'theta': 1.0}
        """
        entry: dict[str, Any] = {"version": VERSION, "tool": f"rekernel {__version__}"}
        sizes = {"scale": listed(self.scale), "sample_size": listed(self.sample_size)}
        entry |= {name: value for name, value in sizes.items() if value is not None or self.plan is None}
        options = {"guidance": self.guidance, "kernels": self.kernels, "positions": self.positions}
        entry |= {name: dict(given) for name, given in options.items() if given is not None}
        if self.cascade is not None:
            entry["cascade"] = list(self.cascade)
        if self.plan is not None:
            entry["plan"] = json.loads(self.plan.to_json(kept=False, indent=None))
        return entry

    @classmethod
    def from_entry(cls, entry: Any, where: str) -> Self:
        """The record that `to_entry` wrote.

        Raises
        ------
        RekernelError
            For a malformed entry, and for a version that this rekernel does not read.
        """
        if not isinstance(entry, Mapping) or entry.get("version") != VERSION:
            raise RekernelError(f"{where}: its entry {KEY!r} is not of version {VERSION}, the one this rekernel reads")
        try:
            plan = plan_of(entry["plan"]) if "plan" in entry else None
            scale = entry["scale"]
            if isinstance(scale, str):
                raise ValueError("scale is not a number")
            scale = tuple(map(float, scale)) if isinstance(scale, list | tuple) else float(scale)
            size = entry["sample_size"] if plan is None else entry.get("sample_size")
            sides = tuple(size) if isinstance(size, list | tuple) else size
            parts = (entry.get(name) for name in ("positions", "cascade"))
            return cls(scale, sides, entry.get("guidance"), entry.get("kernels"), plan, *parts)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RekernelError(f"{where}: its entry {KEY!r} cannot be read ({shown(str(error), 200)})") from None


def _check_sample_size(size: Any) -> None:
    sides = size if isinstance(size, tuple) else () if size is None else (size,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= LARGEST_IMAGE for n in sides)
    if size is not None and not (whole and 1 <= len(sides) <= 3):
        raise RekernelError(
            f"sample_size={shown(repr(size), 80)} is not a number of pixels, or a list of 1 to 3 of them"
        )


def read_record(folder: Path) -> Recorded | None:
    """The record in a component's folder, or None."""
    path = folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    return Recorded.from_entry(config[KEY], shown_path(path)) if KEY in config else None


def read_records(pipeline: Pipeline) -> dict[str, Recorded]:
    """The records of a pipeline's denoisers, by the component's name."""
    names = [name for name in DENOISERS if name in pipeline.components]
    return {name: found for name in names if (found := read_record(pipeline.components[name].folder)) is not None}


def listed(value: Any) -> Any:
    """A size or a scale for JSON: a number, or a list of numbers."""
    return list(value) if isinstance(value, tuple) else value
