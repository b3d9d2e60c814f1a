"""Record guidance, kernels and positions in a copy of a pipeline's folder, after a test that its denoiser accepts them.

Scope: folders and diffusers' configs. Not here: the recorded entry (see `record`). No weights are read: the denoiser is
built on the meta device, so that every error of attaching is raised before a file is written.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...checkpoint.pipeline_folder import Component, Pipeline, find_pipeline
from ...checkpoint.strict_json import read_object
from ...conversion.destinations import folder_target
from ...conversion.options import Options
from ...conversion.prepared import prepare
from ...conversion.run import Conversion
from ...errors import RekernelError
from ...escape import shown, shown_path
from ...messages.path_errors import explains_paths
from ...plan.config_file import KEY
from ...plan.recipe import find_recipe
from ...sources.opening import open_source, refuse_stored
from ..denoiser.names import DENOISERS, SECOND
from .record import Recorded
from .trained_size import trained_size


@explains_paths("source", "target")
def record(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    scale: float | tuple[float, ...],
    *,
    guidance: Mapping[str, Any] | None = None,
    kernels: Mapping[str, Any] | None = None,
    positions: Mapping[str, Any] | None = None,
    cascade: Sequence[float] | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Recorded:
    """Copy a diffusers pipeline folder and record in the copy how to sample at `scale`; weights are copied unchanged.

    Parameters
    ----------
    source, target : folders
        The target may not be the source, or lie in the source. It is written as by `rekernel.convert`: the file that
        makes the folder valid comes last, and with `force` the old folder stays whole until the new one is.
    scale : number, or one per grid axis
    guidance, kernels, positions : mapping, optional
        Options of `UpsampleGuidance`, `SupersampledKernels` and `RescaledPositions`; at least one of them is needed.
    cascade : sequence of float, optional
        Strengths of a `GuidedCascade` with these parts, for `pipe.rekernel.cascade(...)`.
    force : bool
        Replace files that exist.
    dry_run : bool
        Check everything, but write nothing.

    Returns
    -------
    Recorded
        What `load_pipeline` will attach.

    Raises
    ------
    RekernelError
        For a folder without a denoiser, or whose UNet has no sample size, for a folder with rescaled weights or with a
        record, for a cascade where the trained size is not known, and for every error of attaching to the denoiser.
    """
    refuse_stored(source)
    pipeline = find_pipeline(source)
    if pipeline is None:
        raise RekernelError(
            f"{shown_path(source)}: is not a diffusers pipeline folder, so there is no sampler to guide; "
            f"pass the folder with model_index.json"
        )
    folder = folder_target(Path(target), Path(source), replace=force)
    if guidance is None and kernels is None and positions is None:
        raise RekernelError(
            "there is nothing to record; pass guidance=, kernels= or positions= ({} for their defaults)"
        )
    root = Path(source)
    component, config = _denoiser(pipeline, root)
    path, trained = component.folder / "config.json", trained_size(pipeline, component, config)
    strengths = None if cascade is None else tuple(cascade)
    if trained is None and (strengths is not None or component.class_name.startswith("UNet")):
        raise RekernelError(
            f"{shown_path(path)}: has no sample_size, so the trained size is not known; without it a cascade has no "
            f"size to start from, and a UNet no default size to enlarge"
        )
    made = Recorded(scale, trained, guidance, kernels, positions=positions, cascade=strengths)
    _check_original(component, config)
    _check_scale(made, pipeline, component)
    _try(made, pipeline, component, config)
    if dry_run:
        return made
    text = json.dumps({**config, KEY: made.to_entry()}, indent=2, sort_keys=True) + "\n"
    files = {*pipeline.files, *(f for c in pipeline.components.values() for f in c.files)}
    index = Path("model_index.json")  # last, since it makes the folder valid
    copies = [(root / name, folder / name) for name in sorted(files - {index})]
    contents = {folder / path.relative_to(root): text.encode()}
    options = Options(None, None, resume=False, force=force, allow_cast=False, allow_pickle=False, progress=None)
    commit = (root / index, folder / index)
    Conversion(options, {}).write(
        lambda: prepare([], copies, [], options, contents=contents, commit=commit, like=root), folder
    )
    return made


def _denoiser(pipeline: Pipeline, root: Path) -> tuple[Component, dict[str, Any]]:
    second = next((name for name in SECOND if name in pipeline.components), None)
    if second is not None:
        raise RekernelError(f"{shown_path(root)}: has a second denoiser, {second}; attach to each separately")
    for name in DENOISERS:
        path = root / name / "config.json"
        if name in pipeline.components and path.is_file():
            return pipeline.components[name], read_object(path)
    raise RekernelError(f"{shown_path(root)}: has no component {' or '.join(DENOISERS)} to guide")


def _check_original(component: Component, config: Mapping[str, Any]) -> None:
    """Raise where the weights are rescaled (the low-resolution pass needs the original ones), or a record exists."""
    entry = config.get(KEY)
    rescaled = isinstance(entry, Mapping) and "plan" in entry
    for path in component.candidates:
        with open_source(path) as weights:
            rescaled = rescaled or find_recipe(weights.metadata) is not None
    if rescaled:
        raise RekernelError(
            f"{shown_path(component.folder)}: its weights are rescaled already, and guidance needs the original ones "
            f"for its pass at the trained size; record it on the original folder, with kernels= to rescale kernels too"
        )
    if entry is not None:
        where = shown_path(component.folder / "config.json")
        raise RekernelError(f"{where}: guidance is recorded already; record it on the original folder")


def _check_scale(made: Recorded, pipeline: Pipeline, component: Component) -> None:
    scales = made.scale if isinstance(made.scale, tuple) else (made.scale,)
    if max(scales) == 1:
        raise RekernelError(f"scale={made.scale} is the trained size, which needs no guidance; pass a larger scale")
    flat = component.class_name.startswith("UNet2D") and "motion_adapter" not in pipeline.components
    if flat and len(scales) > 2:
        raise RekernelError(
            f"scale={made.scale} has {len(scales)} entries for the two axes of a {shown(component.class_name)}; "
            f"pass height and width"
        )


def _try(made: Recorded, pipeline: Pipeline, component: Component, config: Mapping[str, Any]) -> None:
    """Attach to a denoiser built from its config on the meta device; do nothing where diffusers lacks its class."""
    if component.library != "diffusers" or importlib.util.find_spec("diffusers") is None:
        return
    denoiser = _on_meta(component, config)
    if denoiser is None:
        return
    if (kernels := made.make_kernels()) is not None:
        from ..denoiser.substitutes import KernelBank

        KernelBank(denoiser).check_any(kernels.layers)
    for part in made.parts():
        with part.attach(denoiser, scheduler=_scheduler(pipeline)):
            pass


def _on_meta(component: Component, config: Mapping[str, Any]) -> Any:
    import torch

    kind: Any = getattr(importlib.import_module("diffusers"), component.class_name, None)
    if kind is None:
        return None
    try:
        with torch.device("meta"):
            return kind.from_config(dict(config))
    except RuntimeError:  # its constructor computes with values, which the meta device does not have
        return None
    except (TypeError, ValueError, KeyError) as error:
        where = shown_path(component.folder / "config.json")
        raise RekernelError(
            f"{where}: cannot build a {shown(component.class_name)} from this config ({shown(str(error), 200)})"
        ) from None


def _scheduler(pipeline: Pipeline) -> Any:
    found = pipeline.components.get("scheduler")
    kind: Any = found and getattr(importlib.import_module("diffusers"), found.class_name, None)
    if not found or kind is None or found.library != "diffusers":
        raise RekernelError(f"{shown_path(pipeline.path)}: has no diffusers scheduler, so its times are not known")
    try:
        return kind.from_pretrained(found.folder)
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise RekernelError(f"{shown_path(found.folder)}: cannot be read ({shown(str(error), 200)})") from None
