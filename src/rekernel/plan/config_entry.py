"""The plan of rescaled weights in the `config.json` beside them, for files whose metadata other programs write.

`save_pretrained` of transformers and diffusers keeps no metadata of ours; a pickle has none at all.
Scope: one entry of a JSON object. Not here: the recipe in the metadata (see `plan.recipe`), and recorded guidance,
which has the same key (see `diffusion.pipelines.record`). Format: docs/recipe.md, "Rescaled weights in config.json".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.strict_json import read_object
from ..checkpoint.tensor_source import TensorSource
from ..errors import RekernelError
from ..escape import shown_path
from ..version import __version__
from .config_file import KEY
from .plan import Plan, plan_of
from .recipe import Recipe, find_recipe

VERSION = 1
CONFIG = "config.json"
_PLAN, _TRAINED, _SIZE = "plan", "trained", "sample_size"


def with_plan(config: Mapping[str, Any], plan: Plan, trained: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a rescaled model, with the entry that says how it was rescaled.

    Parameters
    ----------
    config : as the model has it now
    trained : the entries of the config that have other values now, with those at the trained size

    Examples
    --------
    >>> new = with_plan({"sample_size": 64, "image_size": 32}, Plan((), scale=2), {"image_size": 16})
    >>> new["_rekernel"]["scale"], new["_rekernel"]["sample_size"], new["_rekernel"]["trained"]
    (2.0, 64, {'image_size': 16})
    """
    scale = plan.scale if isinstance(plan.scale, float) else list(plan.scale)
    entry: dict[str, Any] = {"version": VERSION, "tool": f"rekernel {__version__}", "scale": scale}
    before = config.get(KEY)
    size = before.get(_SIZE) if isinstance(before, Mapping) else None  # that of a pipeline whose default size grew
    size = size if size is not None else config.get(_SIZE)
    entry |= {} if size is None else {_SIZE: size}
    entry |= {_TRAINED: dict(trained)} if trained else {}
    return {**config, KEY: {**entry, _PLAN: json.loads(plan.to_json(kept=False, indent=None))}}


def at_trained_size(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that the model had at its trained size, without the entry.

    Examples
    --------
    >>> new = with_plan({"sub": {"image_size": 32, "depth": 2}}, Plan((), scale=2), {"sub": {"image_size": 16}})
    >>> at_trained_size(new)
    {'sub': {'image_size': 16, 'depth': 2}}
    """
    entry = config.get(KEY)
    bare = {name: value for name, value in config.items() if name != KEY}
    if not isinstance(entry, Mapping) or _PLAN not in entry:
        return bare
    trained = entry.get(_TRAINED)
    old = _merged(bare, trained if isinstance(trained, Mapping) else {})
    return old if entry.get(_SIZE) is None else {**old, _SIZE: entry[_SIZE]}


def plan_in(config: Mapping[str, Any], where: str) -> Plan | None:
    """The plan in the entry of a configuration; None if it has none.

    Raises
    ------
    RekernelError
        If the entry is of another version, or its plan cannot be read.
    """
    entry = config.get(KEY)
    if not isinstance(entry, Mapping) or _PLAN not in entry:
        return None
    if entry.get("version") != VERSION:
        raise RekernelError(f"{where}: its entry {KEY!r} is not of version {VERSION}, the one this rekernel reads")
    return plan_of(entry[_PLAN])


def recipe_of(source: TensorSource) -> Recipe | None:
    """The recipe of an open checkpoint: that in its metadata, or else the plan in the `config.json` beside it."""
    return find_recipe(source.metadata) or recipe_beside(source.path)


def recipe_beside(weights: Path) -> Recipe | None:
    """The recipe in the `config.json` beside weights, or in a folder; None if there is none, or no readable config.

    Examples
    --------
    >>> recipe_beside(Path("no/such/model.safetensors")) is None
    True
    """
    path = (weights if weights.is_dir() else weights.parent) / CONFIG
    try:
        config = read_object(path)
    except RekernelError:  # whose file it is does not matter here
        return None
    plan = plan_in(config, shown_path(path))
    if plan is None:
        return None
    tool = config[KEY].get("tool", "")
    return Recipe(plan, (), "", tool if isinstance(tool, str) else "")


def class_name(config: Mapping[str, Any]) -> str:
    """Return the class that a transformers or diffusers config names; empty if there is none, or not a plain name."""
    named = config.get("architectures") or [config.get("_class_name")]
    first = named[0] if isinstance(named, list) and named else None
    return first if isinstance(first, str) and first.isascii() and first.isidentifier() and first[0] != "_" else ""


def _merged(config: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for name, value in trained.items():
        inner = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        merged[name] = _merged(inner, value) if both and isinstance(inner, Mapping) else value
    return merged
