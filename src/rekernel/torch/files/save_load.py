"""Save a rescaled module, and load it into a model of the trained size.

The recipe in the metadata of the file says how the layers of the model have to change before the weights fit.
Scope: tensors, files and their recipe. Not here: changing a layer (see `torch.editing.apply`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.file_kind import ALLOW_PICKLE
from ...checkpoint.locked_file import claimed
from ...checkpoint.paths import StrPath
from ...checkpoint.writer import StreamingWriter
from ...errors import RekernelError
from ...escape import shown, shown_path
from ...messages.arguments import check_instance
from ...messages.log import logger
from ...messages.path_errors import explains_paths
from ...messages.warn import tell
from ...plan.config_entry import recipe_beside, recipe_of
from ...plan.plan import Plan
from ...plan.recipe import KEY, Recipe
from ...sources.opening import open_source
from ...text import few, scale_text
from ...version import __version__
from ..dtypes import dtype_name
from ..editing.apply import PLAN, announce, carry_out
from ..editing.bake import bake
from ..editing.edits import Edits
from ..layers.module_names import aliases, owner_of
from ..layers.prefixes import prefix_hint
from ..planning.complete import completed
from ..planning.held_sizes import held_sizes
from ..surroundings import in_format_of, own_tensors
from .file_tensors import Incoming
from .transformers_names import incoming
from .weight_norms import joined

_LOG = logger(__name__)
_HAS_ALL = "model.rekernel_plan.warnings has them all"


@explains_paths("path")
def save(model: nn.Module, path: StrPath, *, force: bool = False) -> None:
    """Write a rescaled module as safetensors, its plan in the metadata.

    Parameters
    ----------
    model : nn.Module
        A module that `rescale` or `load` returned.
    path : path
        A file whose name ends in .safetensors; it is written completely or not at all.
    force : bool
        Replace an existing file.

    Raises
    ------
    RekernelError
        If the module has no plan or no values, if the file has another ending, or if it exists.

    Examples
    --------
    >>> import tempfile
    >>> from rekernel.torch import rescale
    >>> small = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(32, 5))
    >>> path = tempfile.mkdtemp() + "/out.safetensors"
    >>> save(rescale(small, 2, torch.zeros(1, 1, 8, 8)), path)
    >>> load(small, path)[0]
    Conv2d(1, 2, kernel_size=(6, 6), stride=(4, 4), padding=(2, 2))
    """
    if not isinstance(model, nn.Module) or not isinstance(path, str | os.PathLike):
        kinds = f"{type(model).__name__}, {type(path).__name__}"
        raise RekernelError(f"save({kinds}): pass the model and then the path of the file: save(model, path)")
    if Path(path).suffix.lower() != ".safetensors":
        raise RekernelError(
            f"{shown_path(path)}: the file is a safetensors file, so its name ends in .safetensors; pass another name"
        )
    plan = getattr(model, PLAN, None)
    if not isinstance(plan, Plan):
        raise RekernelError(
            "this module has no plan, so it was not rescaled; save what rekernel.torch.rescale returned"
        )
    state = _tensors_of(model)
    if empty := next((name for name, value in state.items() if value.device.type == "meta"), None):
        raise RekernelError(f"{shown(empty)}: is on the meta device, so it has no values to save; load weights first")
    recipe = Recipe(plan, (), "", f"rekernel {__version__}")
    tensors = [(name, dtype_name(value.dtype), tuple(value.shape)) for name, value in state.items()]
    metadata = {"format": "pt", KEY: recipe.to_json()}
    with claimed(Path(path), folder=False), StreamingWriter(path, tensors, metadata, force=force) as writer:
        for name, value in state.items():
            flat = value.detach().cpu().contiguous().reshape(-1)
            data: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
            writer.write(name, data)


@explains_paths("path")
def load(
    model: nn.Module, path: StrPath, *, plan: Plan | None = None, prefix: str = "", allow_pickle: bool = False
) -> nn.Module:
    """Load a rescaled checkpoint into a model of the trained size: change its layers, then load the weights.

    Tensors are loaded one by one, so no second copy of the model is in memory. The model may be on the meta device.
    A file that was converted by names alone need not know the stride and padding of the layer that absorbs the scale:
    they are taken from the model. Where the recipe resamples the image, a forward pre-hook of the model does so.

    Parameters
    ----------
    model : nn.Module
        The model, built for the trained size; it is changed in place.
    path : path
        A file, an index, or a folder with one of them, written by `save`, by `rekernel.convert`, or by the
        `save_pretrained` of a model that `rescale` or `load` returned.
    plan : Plan, optional
        What was done to the weights, for a file of another program that has no recipe.
    prefix : str
        The beginning of the names in the file that the names of the model do not have, such as 'module.'.
    allow_pickle : bool
        With `plan`, or where a `config.json` beside it has the plan, also read .bin, .pt, .pth and .ckpt, by torch with
        `weights_only=True`. Rekernel writes none, `save_pretrained` of diffusers may.

    Returns
    -------
    nn.Module
        The same model, with its plan in `rekernel_plan`; a new one only if `model` is a single layer.

    Raises
    ------
    RekernelError
        If the checkpoint has no recipe, is for another architecture, or has missing, unexpected or misshapen tensors,
        which the message names. The model is then unchanged.

    Warns
    -----
    RekernelWarning
        Each note that the plan in the file does not have: what the model shows and names do not.

    Examples
    --------
    >>> import rekernel as rk, tempfile
    >>> from safetensors.torch import save_file
    >>> small = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(32, 5))
    >>> folder = tempfile.mkdtemp()
    >>> save_file(small.state_dict(), folder + "/in.safetensors")
    >>> _ = rk.convert(folder + "/in.safetensors", folder + "/out.safetensors", scale=2)
    >>> x, larger = torch.rand(1, 1, 16, 16), load(nn.Sequential(*small), folder + "/out.safetensors")
    >>> torch.allclose(larger(x), small(nn.functional.avg_pool2d(x, 2)), atol=1e-6)
    True
    """
    if not isinstance(model, nn.Module) or not isinstance(path, str | os.PathLike):
        kinds = f"{type(model).__name__}, {type(path).__name__}"
        raise RekernelError(f"load({kinds}): pass the model and then the path of the file: load(model, path)")
    if plan is not None:
        check_instance(plan, Plan, "plan", "pass what plan_checkpoint returned, or Plan.from_json(text)")
    where = shown_path(path)
    told = plan is not None or recipe_beside(Path(path)) is not None
    with own_tensors(), without_pickles(where, told=told), open_source(path, allow_pickle=allow_pickle) as source:
        if plan is None:
            recipe = recipe_of(source)
            if recipe is None:
                raise no_recipe(where)
            plan = recipe.plan
        earlier = getattr(model, PLAN, None)
        if isinstance(earlier, Plan) and not earlier.empty:
            raise RekernelError(
                f"{where}: this {type(model).__name__} was rescaled already (scale {scale_text(earlier.scale)}); load "
                f"into a new one, built for the trained size"
            )
        known = set(plan.warnings)
        given = incoming(source, model)
        if prefix:
            given, plan = given.without(prefix), _without(plan, prefix)
        plan, given = joined(given.renamed(plan), given, source)
        with Edits(model) as edits:
            # A weight that was baked before the file was written has its plain name in the file.
            bake(edits, {owner_of(n) for n in set(given.shapes) - set(model.state_dict()) if n.endswith("weight")})
            _check_plan(edits.model, plan, given, where)
            plan = _for_tied(plan, edits.model)
            plan = completed(plan, edits.model, given.files)
            held = held_sizes(edits.model, plan)
            notes = [note for note in (held.note(), *held.notes) if note and note not in plan.warnings]
            carry_out(edits, replace(plan, warnings=(*plan.warnings, *notes)), weights=False)
            announce(edits, plan)
            _check_tensors(edits.model, given, where)
            state = _tensors_of(edits.model)
            # If the model is on the meta device, even in part, all tensors take the dtype of the file.
            empty = any(tensor.device.type == "meta" for tensor in state.values())
            filled: dict[int, nn.Parameter] = {}
            for name in state:
                if name in given.shapes:  # the file may hold a tied tensor under another name
                    _assign(edits, name, given, filled, empty)
            _LOG.debug("loaded: %s: %d tensors", where, len(given.shapes))
            tell((note for note in (*plan.warnings, *notes) if note not in known), _HAS_ALL)
    return edits.model


def no_recipe(where: str) -> RekernelError:
    """The error for weights of which nothing says that they were rescaled."""
    return RekernelError(
        f"{where}: has no recipe, neither in its metadata nor in a config.json beside it; load it as any other file, "
        f"or, if another program saved a rescaled model there, pass rekernel.torch.load plan=, the rekernel_plan of "
        f"that model"
    )


@contextmanager
def without_pickles(where: str, *, told: bool = False) -> Iterator[None]:
    """Say of a pickle that it was not rescaled, instead of which option reads it, unless a plan is at hand (`told`)."""
    try:
        yield
    except RekernelError as error:
        if told or ALLOW_PICKLE not in error.args:
            raise
        raise RekernelError(
            f"{where}: is a pickle, and rekernel writes safetensors, so it was not rescaled; convert it first "
            f"(rekernel.convert with allow_pickle=True), or load it as any other file and use rekernel.torch.rescale"
        ) from None


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _without(plan: Plan, prefix: str) -> Plan:
    """The plan of a traced model, without the beginning of its names; one by names is renamed with the tensors."""
    if plan.origin != "trace":
        return plan
    changes = (replace(change, name=change.name.removeprefix(prefix)) for change in plan.changes)
    modules = (replace(m, name=f"{m.name}.".removeprefix(prefix).removesuffix(".")) for m in plan.modules)
    return replace(plan, changes=tuple(changes), modules=tuple(modules))


def _check_plan(model: nn.Module, plan: Plan, given: Incoming, where: str) -> None:
    """Raise if the plan is not for this model: a tensor is missing or has another shape."""
    state = _tensors_of(model)
    kind = type(model).__name__
    for change in plan.changed:
        if change.name not in state:
            hint = prefix_hint(given.shapes, state)
            raise RekernelError(
                f"{where}: was made for another architecture: it changes {shown(change.name)}, which this {kind} does "
                f"not have"
                if not hint
                else f"{where}: the names of its tensors are not those of this {kind}: {hint}"
            )
        if tuple(state[change.name].shape) != change.shape:
            raise RekernelError(
                f"{where}: was made for another architecture: {shown(change.name)} had shape {list(change.shape)}, but "
                f"has {list(state[change.name].shape)} in this {kind}"
            )


def _for_tied(plan: Plan, model: nn.Module) -> Plan:
    """The plan, extended to all names of a tied weight. A file may hold only one (see `save_model` of safetensors)."""
    names, told = aliases(model), {change.name for change in plan.changes}
    others = [replace(c, name=name) for c in plan.changed for name in names.get(c.name, ()) if name not in told]
    return replace(plan, changes=(*plan.changes, *others))


def _check_tensors(model: nn.Module, given: Incoming, where: str) -> None:
    """Raise for anything that would stop the loading halfway: no tensor was loaded yet."""
    state, there = _tensors_of(model), given.shapes
    tied = aliases(model)
    missing = [shown(n) for n in sorted(set(state) - set(there)) if there.keys().isdisjoint(tied.get(n, ()))]
    unexpected = [shown(n) for n in sorted(set(there) - set(state))]
    misshapen = [
        f"{given.origin(n)} {list(there[n])} for {list(state[n].shape)}"
        for n in sorted(set(state) & set(there)) if tuple(state[n].shape) != there[n]
    ]  # fmt: skip
    found = [
        f"{what} {few(names)}"
        for what, names in (("misses", missing), ("has unexpected", unexpected), ("has misshapen", misshapen))
        if names
    ]
    if found:
        hint = prefix_hint(there, state) if missing and unexpected else ""
        more = f"; {hint}" if hint else ""
        raise RekernelError(f"{where}: does not fit this {type(model).__name__}: it {'; it '.join(found)}{more}")
    if foreign := given.foreign():
        raise RekernelError(f"{shown(foreign[0])}: torch has no dtype {foreign[1]}")
    nowhere = [n for n, b in model.named_buffers() if b.device.type == "meta" and n not in state]
    if nowhere:
        raise RekernelError(
            f"{shown(nowhere[0])}: is a buffer on the meta device, and a checkpoint does not hold it; build the model "
            f"so that only its parameters are on meta"
        )


def _assign(edits: Edits, name: str, given: Incoming, filled: dict[int, nn.Parameter], empty: bool) -> None:
    """Copy a tensor into the model. If the model is empty (on meta), put it in, once for all names of a tied tensor."""
    path, _, leaf = name.rpartition(".")
    owner = edits.model.get_submodule(path)
    old = getattr(owner, leaf)
    if id(old) in filled:
        return
    value = given.take(name)
    if not empty or (old.device.type != "meta" and not isinstance(old, nn.Parameter)):
        with torch.no_grad():
            old.copy_(value)
    elif isinstance(old, nn.Parameter):
        new = nn.Parameter(in_format_of(old, value), requires_grad=old.requires_grad)
        edits.set_parameter(owner, leaf, new)
        filled[id(new)] = new
    else:
        owner.register_buffer(leaf, value)
