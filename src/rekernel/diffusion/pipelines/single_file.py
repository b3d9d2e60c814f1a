"""Load Stable Diffusion from one file whose layers rekernel dilated: the weights by diffusers, then the dilation.

Scope: the names of both layouts, as diffusers translates them. Not here: folders (see `load`). A file with larger
kernels is not loaded, since diffusers builds every network from a config, with 3x3 kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import RekernelError
from ...escape import shown, shown_path
from ...plan.plan import Plan
from ...plan.recipe import find_recipe
from ...sources.opening import open_source

_AVERAGED = "model_ema."
_SECOND_ENCODER = "conditioner.embedders.1."


def dilated_pipeline(path: Path, options: dict[str, Any]) -> Any:
    """The pipeline in a file, its UNet dilated as the recipe says.

    Parameters
    ----------
    path : the file
    options : arguments of diffusers' `from_single_file`: config=, dtype=, vae=, ...

    Raises
    ------
    RekernelError
        For a file without a recipe, with larger kernels, or that diffusers cannot load.
    """
    where = shown_path(path)
    with open_source(path) as source:
        recipe, names = find_recipe(source.metadata), list(source.tensors)
    if recipe is None:
        raise RekernelError(
            f"{where}: has no recipe, so it was not rescaled by rekernel; load it with diffusers' from_single_file"
        )
    if any(change.operators for change in recipe.plan.changed):
        raise RekernelError(
            f"{where}: has larger kernels, and diffusers builds 3x3 kernels for a single file. Load the original with "
            f"from_single_file, save_pretrained it, and convert that folder; or convert the file with method='dilate', "
            f"which keeps its weights"
        )
    large = any(name.startswith(_SECOND_ENCODER) for name in names)
    kind: Any = getattr(
        importlib.import_module("diffusers"), "StableDiffusionXLPipeline" if large else "StableDiffusionPipeline"
    )
    try:
        pipe = kind.from_single_file(str(path), **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        said = shown(" ".join(str(error).split()), 300)
        raise RekernelError(f"{where}: diffusers cannot load this file: {said}") from error
    from ...torch.editing.apply import apply_plan

    pipe.unet = apply_plan(pipe.unet, _renamed(recipe.plan, names, dict(pipe.unet.config), where))
    return pipe


def _renamed(plan: Plan, names: Iterable[str], config: dict[str, Any], where: str) -> Plan:
    """The plan under the names of diffusers. Averaged copies of weights, which no pipeline reads, are left out."""
    utils: Any = importlib.import_module("diffusers.loaders.single_file_utils")
    translated = utils.convert_ldm_unet_checkpoint({name: name for name in names}, config)
    ours = {theirs: new for new, theirs in translated.items()}
    changes = []
    for change in plan.changed:
        if change.name in ours:
            changes.append(replace(change, name=ours[change.name]))
        elif not change.name.startswith(_AVERAGED):
            raise RekernelError(f"{where}: {shown(change.name)} was dilated, which is not part of the UNet")
    return replace(plan, changes=tuple(changes))


__all__ = ["dilated_pipeline"]
