"""Load a rescaled model from the Hub, or from a folder, into a model of its architecture.

Scope: addresses of files, and whose model it is. Not here: downloading (see `sources.opening`), building a model (see
`torch.files.built_model`), and loading a file (see `torch.files.save_load`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...checkpoint.paths import StrPath
from ...checkpoint.strict_json import read_object
from ...checkpoint.tensor_source import TensorSource
from ...errors import RekernelError
from ...escape import shown, shown_path
from ...messages.arguments import check_path
from ...messages.path_errors import explains_paths
from ...plan.config_entry import CONFIG, plan_in, recipe_of
from ...plan.plan import Plan
from ...sources.address import Address, address_of
from ...sources.opening import local_path, open_location, open_source
from ..checked_arguments import check_module
from ..dtypes import TORCH_DTYPES
from .built_model import built
from .save_load import load, no_recipe, without_pickles
from .transformers_names import incoming


@explains_paths("name")
def load_pretrained(
    name: StrPath,
    *,
    model: nn.Module | None = None,
    revision: str | None = None,
    subfolder: str = "",
    filename: str = "",
    prefix: str = "",
    dtype: torch.dtype | None = None,
    allow_pickle: bool = False,
) -> nn.Module:
    """Load a rescaled checkpoint of the Hub, or of a folder, into a model of the trained size, as `load` does.

    Parameters
    ----------
    name : str or path
        A repository on the Hub ('me/model-2x', or an `hf://` address), or a local file or folder.
    model : nn.Module, optional
        The model, built for the trained size; it is changed in place. By default it is built from the `config.json`
        beside the weights, which has to name a class of transformers or diffusers, and it is in eval mode.
    revision : str, optional
        A branch, tag or commit of the repository; by default its main branch.
    subfolder : str
        A folder inside the repository or folder, such as 'unet' in a pipeline.
    filename : str
        The name of the checkpoint, if there are several.
    prefix : str
        As for `load`.
    dtype : torch.dtype, optional
        The dtype of a model that is built here; by default that of the file, or float32 if the file has several.
    allow_pickle : bool
        As for `load`.

    Returns
    -------
    nn.Module
        The same model; a new one if `model` is a single layer, or not given.

    Raises
    ------
    HubError
        If the repository does not exist, is not accessible, or cannot be reached.
    RekernelError
        As for `load`; and if no model can be built.

    Examples
    --------
    >>> import tempfile, torch
    >>> from rekernel.torch import rescale, save
    >>> small = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(32, 5))
    >>> folder = tempfile.mkdtemp()
    >>> save(rescale(small, 2, torch.zeros(1, 1, 8, 8)), folder + "/out.safetensors")
    >>> load_pretrained(folder, model=small)[0]
    Conv2d(1, 2, kernel_size=(6, 6), stride=(4, 4), padding=(2, 2))
    """
    check_path(name, "name")
    if model is not None:
        check_module(model)
    if model is not None and dtype is not None:
        raise RekernelError(f"dtype={dtype}: is for a model that is built here; convert yours with .to({dtype})")
    inside = "/".join(part.strip("/") for part in (subfolder, filename) if part)
    address = address_of(name)
    if address is None:
        if revision is not None:
            where = shown(os.fspath(name), 400)
            raise RekernelError(f"{where}: a local folder has no revision {shown(revision)}; leave it out.")
        path = Path(name, inside)
        if model is not None:
            return load(model, path, prefix=prefix, allow_pickle=allow_pickle)
        return _with_own_model(path, path.parent if path.is_file() else path, prefix, dtype, allow_pickle)
    if revision is not None and address.revision not in ("", revision):
        raise RekernelError(f"{address}: has another revision than revision={shown(revision)}; give only one of them.")
    place = "/".join(part for part in (address.path, inside) if part)
    whole = address_of(str(Address(address.repo, revision or address.revision, place)))
    config = None if model is not None else _downloaded_config(str(whole))
    with without_pickles(str(whole), told=allow_pickle):
        path = local_path(str(whole), allow_pickle=allow_pickle)
    if config is None:
        assert model is not None
        return load(model, path, prefix=prefix, allow_pickle=allow_pickle)
    return _with_own_model(path, config.parent, prefix, dtype, allow_pickle)


def _downloaded_config(address: str) -> Path:
    with open_location(address) as place:
        path = (place.path if place.path.is_dir() else place.path.parent) / CONFIG
        if not path.is_file():
            raise RekernelError(f"{address}: has no {CONFIG} to build a model from; pass model=, built for its size")
        return place.here(path)


def _with_own_model(path: Path, folder: Path, prefix: str, dtype: torch.dtype | None, pickles: bool) -> nn.Module:
    """Build the model that the config in a folder names, and load weights into it."""
    where = shown_path(folder / CONFIG)
    if not (folder / CONFIG).is_file() and path.exists():
        raise RekernelError(f"{where}: is not there, to build a model from; pass model=, built for the trained size")
    with without_pickles(shown_path(path), told=(folder / CONFIG).is_file()):
        source = open_source(path, allow_pickle=pickles)
    config = read_object(folder / CONFIG)
    with source:
        if recipe_of(source) is None:  # said before a large model is built
            raise no_recipe(shown_path(path))
        model = built(config, where)
        kept: Any = Plan(()) if _tells_all(config, source, model, where) else None
        kinds = {TORCH_DTYPES[info.dtype] for info in source.tensors.values() if info.dtype in TORCH_DTYPES}
    floating = [kind for kind in kinds if kind.is_floating_point]
    wanted = dtype or (floating[0] if len(floating) == 1 else torch.float32)
    if wanted != torch.get_default_dtype():
        model = model.to(wanted)
    return load(model, path, plan=kept, prefix=prefix, allow_pickle=pickles).eval()


def _tells_all(config: dict[str, Any], source: TensorSource, model: nn.Module, where: str) -> bool:
    """Whether a config has the new sizes, so that a model built from it has the shapes of the rescaled weights."""
    recipe = recipe_of(source)
    if recipe is None or plan_in(config, where) is not None:
        return False
    given, state = incoming(source, model).shapes, model.state_dict()
    grown = any(change.shape != change.new_shape for change in recipe.plan.changed)
    return grown and all(tuple(state[name].shape) == given[name] for name in given.keys() & state.keys())
