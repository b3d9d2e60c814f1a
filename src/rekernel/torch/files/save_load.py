"""Save a rescaled module, and load it into a model of the trained size.

The recipe in the metadata of the file says how the layers of the model have to change before the weights fit.
Scope: tensors, files and their recipe. Not here: changing a layer (see `torch.editing.apply`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from ...text import scale_text
from ...version import __version__
from ..dtypes import dtype_name
from ..editing.apply import PLAN, announce, carry_out
from ..editing.bake import bake
from ..editing.edits import Edits
from ..layers.factored import FactoredConv, FactoredConvTranspose
from ..layers.module_names import aliases, owner_of
from ..planning.complete import completed
from ..planning.held_sizes import held_sizes
from ..surroundings import in_format_of, own_tensors
from ..wrapped import is_sharded, refuse_wrapped, unwrapped
from .file_tensors import Incoming
from .fits import check_plan, check_tensors, tensors_of
from .gathered import write_gathered
from .local_part import from_part, local_part, mesh_device
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
        A module that `rescale` or `load` returned. Wrappers of torch around it (`DistributedDataParallel`, `compile`)
        are left out. Where `fully_shard` has shared its parameters out, every process calls this function: process 0
        writes, and the tensors are joined one at a time.
    path : path
        A file whose name ends in .safetensors; it is written completely or not at all.
    force : bool
        Replace an existing file.

    Raises
    ------
    RekernelError
        If the module has no plan or no values, if the file has another ending, or if it exists. Of several processes
        that save together, all raise. They name the same file, and hold parts of the same tensors.

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
    model = unwrapped(model)
    plan = getattr(model, PLAN, None)
    if not isinstance(plan, Plan):
        raise RekernelError(
            "this module has no plan, so it was not rescaled; save what rekernel.torch.rescale returned"
        )
    state = tensors_of(model)
    if empty := next((name for name, value in state.items() if value.device.type == "meta"), None):
        raise RekernelError(f"{shown(empty)}: is on the meta device, so it has no values to save; load weights first")
    recipe = Recipe(plan, (), "", f"rekernel {__version__}")
    tensors = [(name, dtype_name(value.dtype), tuple(value.shape)) for name, value in state.items()]
    metadata = {"format": "pt", KEY: recipe.to_json()}

    def write(whole: Iterable[tuple[str, Tensor]]) -> None:
        with claimed(Path(path), folder=False), StreamingWriter(path, tensors, metadata, force=force) as writer:
            for name, value in whole:
                flat = value.detach().cpu().contiguous().reshape(-1)
                data: Any = flat.view(torch.uint8).numpy() if flat.numel() else b""
                writer.write(name, data)

    if any(map(is_sharded, state.values())):
        write_gathered(state, write, os.fsdecode(path))
    else:
        write(state.items())


@explains_paths("path")
def load(
    model: nn.Module,
    path: StrPath,
    *,
    plan: Plan | None = None,
    prefix: str = "",
    weights: bool = True,
    allow_pickle: bool = False,
) -> nn.Module:
    """Load a rescaled checkpoint into a model of the trained size: change its layers, then load the weights.

    Tensors are loaded one by one, so no second copy of the model is in memory. The model may be on the meta device.
    A file that was converted by names alone need not know the stride and padding of the layer that absorbs the scale:
    they are taken from the model. Where the recipe resamples the image, a forward pre-hook of the model does so.

    A model that was rescaled already takes the weights alone if it is on the meta device, or if its parameters are
    DTensors, as `fully_shard` makes them. Then each process reads its own part of each tensor; parameters on the meta
    device go to the device of their mesh.

    Parameters
    ----------
    model : nn.Module
        The model, built for the trained size, or rescaled and without values; it is changed in place.
    path : path
        A file, an index, or a folder with one of them, written by `save`, by `rekernel.convert`, or by the
        `save_pretrained` of a model that `rescale` or `load` returned.
    plan : Plan, optional
        What was done to the weights, for a file of another program that has no recipe.
    prefix : str
        The beginning of the names in the file that the names of the model do not have, such as 'module.'.
    weights : bool
        False changes the layers alone and leaves new weights empty. Do so on the meta device before `fully_shard`, and
        load the weights after it.
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
        or integers for floating-point ones, which the message names; if the file has a name with and without the
        prefix; and if the model is prepared for several processes, but its layers were not changed before. The model is
        then unchanged. If the file cannot be read to its end (a broken disk), layers, parameters and tensors on the
        meta device are put back, too, but tensors that kept their place may hold values of the file.

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
        ready = _has_layers(model, plan, where)
        given = incoming(source, model)
        if prefix:
            given, plan = given.without(prefix), _without(plan, prefix)
        plan, given = joined(given.renamed(plan), given, source)
        with Edits(model) as edits:
            notes = [] if ready else _change_layers(edits, plan, given, where)
            check_tensors(edits.model, given, where)
            if weights:
                _fill(edits, given)
                _LOG.debug("loaded: %s: %d tensors", where, len(given.shapes))
            tell(notes, _HAS_ALL)
    return edits.model


def _has_layers(model: nn.Module, plan: Plan, where: str) -> bool:
    """Whether the layers of a model are those of the new size, so that weights are all that it lacks."""
    kind, earlier = type(model).__name__, getattr(model, PLAN, None)
    state = tensors_of(model)  # joined parameters of fully_shard are parted by this, so it comes first
    sharded = any(map(is_sharded, state.values()))
    if not isinstance(earlier, Plan) or earlier.empty:
        if not sharded:
            refuse_wrapped(model, "load")
        elif not plan.empty:
            raise RekernelError(
                f"{where}: the parameters of this {kind} are shared out among processes already, but its layers are "
                f"those of the trained size; change them before fully_shard: rekernel.torch.load(model, path, "
                f"weights=False)"
            )
        return sharded
    if not sharded and not any(tensor.is_meta for tensor in state.values()):
        raise RekernelError(
            f"{where}: this {kind} was rescaled already (scale {scale_text(earlier.scale)}); load into a new one, "
            f"built for the trained size"
        )
    if not plan.empty and not _same_scale(plan, earlier):
        raise RekernelError(
            f"{where}: was rescaled by {scale_text(plan.scale)}, but this {kind} by {scale_text(earlier.scale)}; "
            f"rescale it as the file was"
        )
    return True


def _same_scale(one: Plan, other: Plan) -> bool:
    """Whether two plans have the same scales. One made by names alone does not tell how many axes an image has."""
    scales = [sorted({round(s, 2) for s in np.atleast_1d(plan.scale).tolist()}) for plan in (one, other)]
    return scales[0] == scales[1]


def _change_layers(edits: Edits, plan: Plan, given: Incoming, where: str) -> list[str]:
    """Give the model the layers of the new size, without weights. Returns the notes that the plan did not have."""
    known = set(plan.warnings)
    # A weight that was baked before the file was written has its plain name in the file.
    bake(edits, {owner_of(n) for n in set(given.shapes) - set(edits.model.state_dict()) if n.endswith("weight")})
    check_plan(edits.model, plan, given, where)
    plan = _for_tied(plan, edits.model)
    plan = completed(plan, edits.model, given.files)
    held = held_sizes(edits.model, plan)
    notes = [note for note in (held.note(), *held.notes) if note and note not in plan.warnings]
    carry_out(edits, replace(plan, warnings=(*plan.warnings, *notes)), weights=False)
    announce(edits, plan)
    return [note for note in (*plan.warnings, *notes) if note not in known]


def _fill(edits: Edits, given: Incoming) -> None:
    """Load the tensors, each process its part of each."""
    state = tensors_of(edits.model)
    # If the model is on the meta device, even in part, all tensors take the dtype of the file.
    empty = any(tensor.device.type == "meta" for tensor in state.values())
    mesh = next((mesh_device(tensor) for tensor in state.values() if is_sharded(tensor)), None)
    filled: dict[int, nn.Parameter] = {}
    for name in state:
        if name in given.shapes:  # the file may hold a tied tensor under another name
            _assign(edits, name, given, filled, empty, mesh)
    for module in edits.model.modules():
        if isinstance(module, FactoredConv | FactoredConvTranspose):
            module.refill()


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


def _without(plan: Plan, prefix: str) -> Plan:
    """The plan of a traced model, without the beginning of its names; one by names is renamed with the tensors."""
    if plan.origin != "trace":
        return plan
    changes = (replace(change, name=change.name.removeprefix(prefix)) for change in plan.changes)
    modules = (replace(m, name=f"{m.name}.".removeprefix(prefix).removesuffix(".")) for m in plan.modules)
    return replace(plan, changes=tuple(changes), modules=tuple(modules))


def _for_tied(plan: Plan, model: nn.Module) -> Plan:
    """The plan, extended to all names of a tied weight. A file may hold only one (see `save_model` of safetensors)."""
    names, told = aliases(model), {change.name for change in plan.changes}
    others = [replace(c, name=name) for c in plan.changed for name in names.get(c.name, ()) if name not in told]
    return replace(plan, changes=(*plan.changes, *others))


def _assign(
    edits: Edits, name: str, given: Incoming, filled: dict[int, nn.Parameter], empty: bool, device: torch.device | None
) -> None:
    """Copy a tensor into the model. If the model is empty (on meta), put it in, once for all names of a tied tensor.

    device : where a tensor goes in place of one on the meta device; None leaves it where it was read
    """
    path, _, leaf = name.rpartition(".")
    owner = edits.model.get_submodule(path)
    old = getattr(owner, leaf)
    if id(old) in filled:
        return
    part = local_part(old) if is_sharded(old) else None
    value = given.take(name, part)
    if part is not None and not old.is_meta:
        old.to_local().copy_(value)
        return
    if part is not None:
        value = from_part(old, value)
    elif device is not None and old.is_meta:
        value = value.to(device)
    if not empty or (old.device.type != "meta" and not isinstance(old, nn.Parameter)):
        with torch.no_grad():
            old.copy_(value)
    elif isinstance(old, nn.Parameter):
        new = nn.Parameter(in_format_of(old, value), requires_grad=old.requires_grad)
        edits.set_parameter(owner, leaf, new)
        filled[id(new)] = new
    else:
        edits.set_buffer(owner, leaf, value if old.is_floating_point() else value.to(old.dtype))
