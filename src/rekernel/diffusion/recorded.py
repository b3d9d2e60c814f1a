"""What a pipeline folder says about sampling above its trained size: scale, kernels and guidance, in the config of its
denoiser.

Knows one entry of a `config.json` and its folder; no torch and no sampling. The weights stay as they are, so the folder
still loads with diffusers alone. Format: docs/recipe.md, "Guidance".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..atomic import FORCE, copy_atomic, write_atomic
from ..errors import RekernelError
from ..escape import shown, shown_path
from ..pipeline_folder import Pipeline, find_pipeline
from ..plan import Plan
from ..version import __version__
from .kernels import SupersampledKernels
from .scales import checked_scale
from .upsample import UpsampleGuidance

KEY = "_rekernel"
"""The entry of a denoiser's config; diffusers keeps those that begin with an underscore and gives them to no model."""
VERSION = 1
DENOISERS = ("unet", "transformer")
GUIDANCE_OPTIONS = ("theta", "eta", "start", "stop", "levels", "reduce", "enlarge", "predictor")
KERNEL_OPTIONS = ("layers", "method", "until", "progressive", "noise_damped", "form")


@dataclass(frozen=True)
class Recorded:
    """What is attached when the folder is loaded.

    scale : requested size over trained size, a number or one per axis
    sample_size : the trained size as the config had it
    guidance, kernels : arguments of `UpsampleGuidance` and `SupersampledKernels`; None for neither
    plan : of weights that are rescaled themselves (a pipeline saved again after loading); then kernels are None
    """

    scale: float | tuple[float, ...]
    sample_size: int | tuple[int, ...]
    guidance: Mapping[str, Any] | None = None
    kernels: Mapping[str, Any] | None = None
    plan: Plan | None = None

    def __post_init__(self) -> None:
        _known("guidance", self.guidance, GUIDANCE_OPTIONS)
        _known("kernels", self.kernels, KERNEL_OPTIONS)
        self.make_guidance()  # what they refuse is refused now
        self.make_kernels()

    def make_guidance(self) -> UpsampleGuidance | None:
        """The guidance, not attached."""
        return None if self.guidance is None else UpsampleGuidance(self.scale, **self.guidance)

    def make_kernels(self) -> SupersampledKernels | None:
        """The kernels, not attached."""
        if self.kernels is None:
            return None
        options = dict(self.kernels)
        if isinstance(method := options.get("method"), Mapping):  # JSON has no numbers for keys
            options["method"] = {float(scale): name for scale, name in method.items()}
        return SupersampledKernels(self.scale, **options)

    @property
    def new_size(self) -> int | tuple[int, ...]:
        """The config's sample size at the requested scale."""
        if isinstance(self.scale, tuple):
            trained = self.sample_size if isinstance(self.sample_size, tuple) else (self.sample_size,) * 2
            return tuple(round(n * s) for n, s in zip(trained, self.scale[-len(trained) :], strict=True))
        if isinstance(self.sample_size, tuple):
            return tuple(round(n * self.scale) for n in self.sample_size)
        return round(self.sample_size * self.scale)

    def to_entry(self) -> dict[str, Any]:
        """The entry of the config.

        Examples
        --------
        >>> Recorded(2.0, 64, {"theta": 1.0}).to_entry()["guidance"]
        {'theta': 1.0}
        """
        entry: dict[str, Any] = {"version": VERSION, "tool": f"rekernel {__version__}"}
        entry |= {"scale": _listed(self.scale), "sample_size": _listed(self.sample_size)}
        entry |= {n: dict(v) for n, v in (("guidance", self.guidance), ("kernels", self.kernels)) if v is not None}
        if self.plan is not None:
            entry["plan"] = json.loads(self.plan.to_json(kept=False, indent=None))
        return entry

    @classmethod
    def from_entry(cls, entry: Any, where: str) -> Self:
        """The record that `to_entry` wrote.

        Raises
        ------
        RekernelError
            For an entry that is none, or of a version this rekernel does not read.
        """
        if not isinstance(entry, Mapping) or entry.get("version") != VERSION:
            raise RekernelError(f"{where}: its entry {KEY!r} is not of version {VERSION}, the one this rekernel reads")
        try:
            plan = Plan.from_json(json.dumps(entry["plan"])) if "plan" in entry else None
            scale = checked_scale(entry["scale"])
            if isinstance(scale, str):
                raise ValueError("scale is no number")
            size = entry["sample_size"]
            sides = tuple(map(int, size)) if isinstance(size, list | tuple) else int(size)
            return cls(scale, sides, entry.get("guidance"), entry.get("kernels"), plan)
        except (KeyError, TypeError, ValueError) as error:
            raise RekernelError(f"{where}: its entry {KEY!r} cannot be read ({shown(str(error), 200)})") from None


def record(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    scale: float | tuple[float, ...],
    *,
    guidance: Mapping[str, Any] | None = None,
    kernels: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Recorded:
    """Copy a diffusers pipeline folder and say in it how to sample at `scale`; weights are copied as they are.

    Parameters
    ----------
    source, target : folders
    scale : number, or one per grid axis
    guidance, kernels : mapping, optional
        Arguments of `UpsampleGuidance` and `SupersampledKernels`.
    force : bool
        Replace files that exist.

    Returns
    -------
    Recorded
        What `load_pipeline` will attach.

    Raises
    ------
    RekernelError
        For a folder without a denoiser that has a sample size, or options that are none.
    """
    pipeline = find_pipeline(source)
    if pipeline is None:
        raise RekernelError(
            f"{shown_path(source)}: is no diffusers pipeline folder, so there is no sampler to guide; "
            f"pass the folder with model_index.json"
        )
    root, aim = Path(source), Path(target)
    path, config = _denoiser_config(pipeline, root)
    size = config["sample_size"]
    earlier = config.get(KEY)
    made = Recorded(scale, tuple(size) if isinstance(size, list) else int(size), guidance, kernels)
    if earlier is not None:
        raise RekernelError(f"{shown_path(path)}: guidance is recorded already; record it on the original folder")
    text = json.dumps({**config, KEY: made.to_entry()}, indent=2, sort_keys=True) + "\n"
    files = sorted({*pipeline.files, *(f for c in pipeline.components.values() for f in c.files)})
    there = [name for name in files if (aim / name).exists()]
    if there and not force:
        raise RekernelError(f"{shown_path(aim / there[0])}: exists already; pass ", FORCE, " to replace it")
    for name in files:
        (aim / name).parent.mkdir(parents=True, exist_ok=True)
        if root / name == path:
            write_atomic(aim / name, text.encode(), force=force, inputs=[path])
        else:
            copy_atomic(root / name, aim / name, force=force, inputs=[root / name])
    return made


def read_record(folder: Path) -> Recorded | None:
    """What a component's folder says, if it does."""
    path = folder / "config.json"
    config = _json(path) if path.is_file() else {}
    return Recorded.from_entry(config[KEY], shown_path(path)) if KEY in config else None


def _denoiser_config(pipeline: Pipeline, root: Path) -> tuple[Path, dict[str, Any]]:
    for name in DENOISERS:
        path = root / name / "config.json"
        if name in pipeline.components and path.is_file():
            config = _json(path)
            size = config.get("sample_size")
            sides = size if isinstance(size, list) else [size]
            if not sides or not all(isinstance(n, int) and n > 0 for n in sides):
                raise RekernelError(f"{shown_path(path)}: has no sample_size, so the trained size is not known")
            return path, config
    raise RekernelError(f"{shown_path(root)}: has no component {' or '.join(DENOISERS)} to guide")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RekernelError(f"{shown_path(path)}: cannot be read as JSON ({shown(str(error), 200)})") from None
    if not isinstance(found, dict):
        raise RekernelError(f"{shown_path(path)}: holds no JSON object")
    return found


def _known(what: str, given: Mapping[str, Any] | None, names: tuple[str, ...]) -> None:
    if unknown := sorted(set(given or ()) - set(names)):
        raise RekernelError(f"{what}: no option {', '.join(map(shown, unknown))}; there are {', '.join(names)}")
    for name, value in (given or {}).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RekernelError(f"{what}: {name}={value} must be a finite number")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
