"""Loading a diffusers pipeline at its new size: rescaled weights, switched kernels and guidance as recorded.

Knows diffusers' folders and loading; what is recorded is `recorded`'s, weights are `rekernel.torch`'s.
"""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint.config_file import KEY
from ...checkpoint.pipeline_folder import Component, find_pipeline
from ...checkpoint.variants import only_variant, weights_of
from ...errors import RekernelError
from ...escape import shown, shown_path
from ...plan.plan import Plan
from ...plan.recipe import find_recipe
from ...sources.address import address_of
from ...sources.hub_client import HubError, api, explained, is_away, is_offline
from ...sources.opening import open_source
from ..denoiser.names import DENOISERS
from ..guidance.upsample import UpsampleGuidance
from ..kernels.supersampled import SupersampledKernels
from .record import Recorded, listed, read_records

if TYPE_CHECKING:
    from torch import nn

ATTRIBUTE = "rekernel"
"""The attribute of a loaded pipeline that holds what is attached to it."""

_OF_HUB = (
    "revision", "token", "cache_dir", "force_download", "local_files_only", "variant", "use_safetensors",
    "custom_pipeline", "trust_remote_code",
)  # fmt: skip


@dataclass
class Attached:
    """What `load_pipeline` attached; each can be removed by itself.

    guidance, kernels : None where none was recorded
    """

    guidance: UpsampleGuidance | None = None
    kernels: SupersampledKernels | None = None

    def remove(self) -> None:
        """Take both off."""
        for part in (self.guidance, self.kernels):
            if part is not None:
                part.remove()


def load_pipeline(source: str | os.PathLike[str], **options: Any) -> Any:
    """A diffusers pipeline at the new size, with rescaled kernels and guidance as its folder records.

    Parameters
    ----------
    source : folder, or the name of a repository on the Hub (org/name, hf://org/name[@revision])
        Written by `rekernel convert`, or by `save_pretrained` of a pipeline loaded here.
    **options
        For `DiffusionPipeline.from_pretrained`: dtype (once torch_dtype), variant, custom_pipeline, ...; for a
        repository also revision, token, cache_dir, ... A folder that has weights of one variant alone is loaded with
        it, in float32 unless dtype says otherwise. A denoiser that is passed must be one that `rekernel.torch.load`
        gave, where the folder's is rescaled.

    Returns
    -------
    a diffusers pipeline
        What is attached is in its attribute `rekernel`, and in its repr. Its default size is the new one.

    Raises
    ------
    RekernelError
        For a folder that is no pipeline, or records nothing; and where guidance is recorded for rescaled weights, since
        everything would be applied twice.

    Warns
    -----
    UserWarning
        Where height and width differ and the pipeline knows one number for both: then its default is the trained size.
    """
    diffusers: Any = importlib.import_module("diffusers")
    folder = pipeline_folder(source, options)
    pipeline = find_pipeline(folder)
    if pipeline is None:
        raise RekernelError(f"{shown_path(folder)}: is no diffusers pipeline folder; pass one with model_index.json")
    records = read_records(pipeline)
    if options.get("variant") is None and (variant := only_variant(pipeline)) is not None:
        options["variant"] = variant
        if options.get("dtype", options.get("torch_dtype")) is None:  # transformers alone would keep half precision
            options["dtype"] = importlib.import_module("torch").float32
    modules: dict[str, nn.Module] = {}
    for name, component in pipeline.components.items():
        found = records.get(name)
        if (found is None or found.plan is None) and not is_rescaled(component, options.get("variant")):
            continue
        if found is not None and found.plan is None:
            raise RekernelError(
                f"{shown_path(folder / name)}: its weights are rescaled, and what is recorded would rescale again; "
                f"record guidance on the original folder, or convert it without"
            )
        if name in options:
            modules[name] = _passed(name, options.pop(name))
        else:
            modules[name] = load_component(folder, component, found.plan if found else None, options)
    for name, found in records.items():
        if name not in modules and name not in options:
            module = _at_trained_size(folder, pipeline.components[name], found, options)
            options |= {} if module is None else {name: module}
    if not records and not modules:
        raise RekernelError(
            f"{shown_path(folder)}: records neither rescaled weights nor guidance; load it with diffusers, or write it "
            f"by `rekernel convert`"
        )
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **modules, **options)
    except OSError as error:
        said = shown(" ".join(str(error).split()).removeprefix("Error "), 300)
        raise RekernelError(f"{shown_path(folder)}: diffusers does not load it: {said}") from error
    _at_new_size(pipe, modules, records)
    _made_again(pipe, options)
    setattr(pipe, ATTRIBUTE, _attached(pipe, records))
    return pipe


def pipeline_folder(source: str | os.PathLike[str], options: Mapping[str, Any]) -> Path:
    """The folder; that of a repository downloaded by diffusers itself, which knows the files that it will read.

    Parameters
    ----------
    source : folder, or address on the Hub
        `org/name`, or `hf://org/name[@revision]`.
    options : of `DiffusionPipeline.from_pretrained`
        Of these, what says which files (revision, variant, ...), and where they go (cache_dir, ...).

    Raises
    ------
    HubError
        Where the Hub refuses, or is away.
    RekernelError
        For what is neither, an address of a part of a repository, and two revisions.
    """
    from diffusers import DiffusionPipeline

    path = Path(source)
    if path.is_dir():
        return path
    address = address_of(source)
    if address is None:
        raise RekernelError(f"{shown_path(path)}: is no folder, and no name of a repository (organisation/model)")
    if address.path:
        raise RekernelError(f"{address}: a pipeline is a whole repository; leave out {shown(address.path)}")
    chosen = {name: options[name] for name in _OF_HUB if options.get(name) is not None}
    if address.revision and chosen.setdefault("revision", address.revision) != address.revision:
        raise RekernelError(f"{address}: names another revision than revision={shown(chosen['revision'])}; give one")
    if is_offline():
        chosen["local_files_only"] = True  # diffusers would ask, and say that it could not
    with explained(address):
        _known_to_the_hub(address.repo, chosen)
        try:
            return Path(DiffusionPipeline.download(address.repo, **chosen))
        except OSError as error:  # diffusers' own, where the cache alone was left to answer
            reason = "HF_HUB_OFFLINE is set" if is_offline() else "the Hub does not answer"
            raise HubError(f"{address}: not all of it is in the cache, and {reason}.") from error


def _known_to_the_hub(repo: str, options: Mapping[str, Any]) -> None:
    """Raise what the Hub says of a repository that it does not give: diffusers would look into the cache instead."""
    if is_offline() or options.get("local_files_only"):
        return
    try:
        api(options.get("token")).model_info(repo, revision=options.get("revision"))
    except Exception as error:
        if not is_away(error):
            raise


def _passed(name: str, module: Any) -> Any:
    """A module given in place of rescaled weights, which has to be rescaled too."""
    from ...torch.editing.apply import PLAN

    if not isinstance(getattr(module, PLAN, None), Plan):
        raise RekernelError(
            f"{name}=: the folder's {name} is rescaled, and this {type(module).__name__} is not; pass one that "
            f"rekernel.torch.load gave, leave it out, or load the folder with diffusers"
        )
    return module


def is_rescaled(component: Component, variant: str | None = None) -> bool:
    """Whether a component's weights (those of the variant) have a recipe."""
    if not component.candidates:
        return False
    with open_source(weights_of(component, variant)) as source:
        return find_recipe(source.metadata) is not None


def load_component(folder: Path, component: Component, plan: Plan | None, options: dict[str, Any]) -> nn.Module:
    """A component from its config at the trained size, then brought to its weights' geometry."""
    import torch

    from ...torch.files.save_load import load

    name, library, kind = component.name, component.library, component.class_name
    if library not in ("diffusers", "transformers"):
        raise RekernelError(f"{shown(name)}: is a class of {shown(library)}, which rekernel does not build; pass it")
    made: Any = getattr(importlib.import_module(library), kind, None)
    if made is None:
        raise RekernelError(f"{shown(name)}: {library} has no class {shown(kind)}")
    if library == "diffusers":
        config = made.load_config(folder / name)
        module = made.from_config(config)
    else:
        module = made(made.config_class.from_pretrained(folder / name))
    module = load(module, weights_of(component, options.get("variant")), plan=plan).eval()
    dtype = _dtype_of(name, options)
    return module.to(dtype) if isinstance(dtype, torch.dtype) else module


def _at_trained_size(folder: Path, component: Component, found: Recorded, options: Mapping[str, Any]) -> Any:
    """A denoiser whose config tells the new size, since it was saved here, built at the trained one.

    Transformers make their positions from the size that their config tells. None where the config is as trained.
    """
    made: Any = getattr(importlib.import_module("diffusers"), component.class_name, None)
    told = None if made is None else made.load_config(folder / component.name).get("sample_size")
    if told is None or _sides(told) == found.sample_size:
        return None
    chosen = {name: options[name] for name in ("variant", "use_safetensors") if options.get(name) is not None}
    size, dtype = listed(found.sample_size), _dtype_of(component.name, options)
    return made.from_pretrained(folder / component.name, sample_size=size, dtype=dtype, **chosen)


def _dtype_of(name: str, options: Mapping[str, Any]) -> Any:
    """The dtype asked for, where one is: for all components, or by name."""
    dtype = options.get("dtype", options.get("torch_dtype"))
    return dtype.get(name, dtype.get("default")) if isinstance(dtype, Mapping) else dtype


def _at_new_size(pipe: Any, modules: dict[str, nn.Module], records: dict[str, Recorded]) -> None:
    """Configs say the new size, and what to do when they are loaded after `save_pretrained`."""
    from ...torch.editing.apply import PLAN

    for name in DENOISERS:
        denoiser: Any = getattr(pipe, name, None)
        found = records.get(name)
        if denoiser is None or (found is None and name not in modules):
            continue
        if name in modules:
            plan: Plan = getattr(denoiser, PLAN)
            if found is None and KEY in denoiser.config:  # passed, and loaded here before
                found = Recorded.from_entry(denoiser.config[KEY], name)
            size = found.sample_size if found else _sides(denoiser.config.sample_size)
            found = Recorded(scale_of(plan), size, plan=plan)
        assert found is not None
        denoiser.register_to_config(**{KEY: found.to_entry()})
        new = found.new_size
        if isinstance(found.sample_size, int) and isinstance(new, tuple) and not _takes_sides(pipe):
            warnings.warn(
                f"{type(pipe).__name__} has one number for both sides of its default size, which is not {new}; pass "
                f"height= and width= when calling it",
                stacklevel=3,
            )
            continue
        denoiser.register_to_config(sample_size=listed(new))


def _takes_sides(pipe: Any) -> bool:
    """Whether a pipeline reads a sample size of two numbers: Stable Diffusion does, and those of pixels."""
    return hasattr(pipe, "_is_unet_config_sample_size_int") or getattr(pipe, "vae", None) is None


def _made_again(pipe: Any, options: Mapping[str, Any]) -> None:
    """Let a pipeline read its denoiser's new size: many keep what they read of it when they are made.

    It cannot be known before, since networks that depend on their size are built at the trained one.
    """
    known = {**options, **pipe.config, **pipe.components}
    names = inspect.signature(type(pipe).__init__).parameters
    pipe.__init__(**{name: known[name] for name in names if name in known})


def scale_of(plan: Plan) -> float | tuple[float, ...]:
    """The scale of a plan: a number, or one per axis where they differ."""
    scales = plan.scale if isinstance(plan.scale, tuple) else (plan.scale,)
    return scales if len(set(scales)) > 1 else scales[0]


def _sides(size: Any) -> int | tuple[int, ...]:
    return tuple(size) if isinstance(size, list | tuple) else int(size)


def _attached(pipe: Any, records: dict[str, Recorded]) -> Attached:
    made = Attached()
    for found in records.values():
        made.kernels, made.guidance = found.make_kernels(), found.make_guidance()
    for part in (made.kernels, made.guidance):
        if part is not None:
            part.attach(pipe)
    said = [repr(part) for part in (made.kernels, made.guidance) if part is not None]
    if said:
        pipe.register_to_config(**{KEY: said})
    return made
