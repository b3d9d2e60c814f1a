"""Load a diffusers pipeline at its new size: with rescaled weights, or with the recorded kernels and guidance.

Scope: diffusers' folders and loading. Not here: the record (see `record`), loading rescaled weights (see
`torch/files/save_load`).
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint.pipeline_folder import Component, find_pipeline
from ...checkpoint.strict_json import read_object
from ...checkpoint.variants import only_variant, weights_of
from ...errors import RekernelError
from ...escape import shown, shown_path
from ...messages.arguments import check_path
from ...messages.path_errors import explains_paths
from ...messages.warn import tell
from ...plan.config_entry import CONFIG, recipe_of
from ...plan.config_file import KEY
from ...plan.plan import Plan
from ...sources.address import address_of
from ...sources.hub_client import HubError, api, explained, is_away, is_offline
from ...sources.opening import open_source, refuse_stored
from ...text import scale_text
from ..denoiser.attached import ATTRIBUTE, Attached
from ..denoiser.names import DENOISERS
from .attached_cascade import AttachedCascade
from .default_size import set_default_size
from .record import Recorded, listed, read_records
from .recorded_cascade import recorded_cascade
from .single_file import dilated_pipeline

if TYPE_CHECKING:
    from torch import nn

_OF_HUB = (
    "revision", "token", "cache_dir", "force_download", "local_files_only", "variant", "use_safetensors",
    "custom_pipeline", "trust_remote_code",
)  # fmt: skip


@explains_paths("source")
def load_pipeline(source: str | os.PathLike[str], **options: Any) -> Any:
    """Load a diffusers pipeline at its new size, with rescaled kernels and guidance as its folder records.

    Parameters
    ----------
    source : folder, or the name of a repository on the Hub (org/name, hf://org/name[@revision])
        Written by `rekernel convert`, or by `save_pretrained` of a pipeline loaded here, or of one with a rescaled
        network. Also a single file of Stable Diffusion that `rekernel convert --method dilate` wrote; then the options
        are those of `from_single_file`.
    **options
        Arguments of `DiffusionPipeline.from_pretrained`: dtype (formerly torch_dtype), variant, custom_pipeline, ...;
        for a repository also revision, token, cache_dir, ... Where the folder has only weights of one variant, that
        variant is loaded, in float32 unless dtype is given. Where the folder's denoiser is rescaled, a denoiser passed
        here must come from `rekernel.torch.load`.

    Returns
    -------
    a diffusers pipeline
        Its attribute `rekernel` holds the attached guidance, kernels and positions, and its repr shows them. Its
        default size is the new size. Where the folder records a cascade, `pipe.rekernel.cascade(prompt)` samples in its
        stages, and `pipe(prompt)` from noise at the new size.

    Raises
    ------
    RekernelError
        For a folder that is not a pipeline or has no record, and where guidance is recorded for rescaled weights, which
        would be rescaled twice.

    Warns
    -----
    RekernelWarning
        Where height and width differ and the pipeline has one number for both: then its default is the trained size.
        Where the pipeline has no default size that can be set (Wan, Z-Image): then height and width have to be passed.
    """
    check_path(source, "source")
    if Path(source).is_file():
        pipe = dilated_pipeline(Path(source), dict(options))
        return _finished(pipe, options, {"unet": pipe.unet}, {})
    diffusers: Any = importlib.import_module("diffusers")
    folder = pipeline_folder(source, options)
    pipeline = find_pipeline(folder)
    if pipeline is None:
        raise RekernelError(f"{shown_path(folder)}: is not a diffusers pipeline folder; pass one with model_index.json")
    records = read_records(pipeline)
    if options.get("variant") is None and (variant := only_variant(pipeline)) is not None:
        options["variant"] = variant
        # Diffusers would load in float32 anyway; transformers would keep half precision.
        if options.get("dtype", options.get("torch_dtype")) is None:
            options["dtype"] = importlib.import_module("torch").float32
    modules: dict[str, nn.Module] = {}
    for name, component in pipeline.components.items():
        found = records.get(name)
        if (found is None or found.plan is None) and not is_rescaled(component, options.get("variant")):
            continue
        if found is not None and found.plan is None:
            raise RekernelError(
                f"{shown_path(folder / name)}: its weights are rescaled, and the recorded kernels or guidance would "
                f"rescale again; record guidance on the original folder, or convert that folder without guidance"
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
            f"{shown_path(folder)}: records neither rescaled weights nor guidance; load it with diffusers, or convert "
            f"it with `rekernel convert` first"
        )
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, **modules, **options)
    except OSError as error:
        said = shown(" ".join(str(error).split()).removeprefix("Error "), 300)
        raise RekernelError(f"{shown_path(folder)}: diffusers cannot load this folder: {said}") from error
    return _finished(pipe, options, modules, records)


def _finished(pipe: Any, options: dict[str, Any], modules: dict[str, nn.Module], records: dict[str, Recorded]) -> Any:
    """The pipeline with its new default size, and with what is recorded attached."""
    _at_new_size(pipe, modules, records)
    _made_again(pipe, options)
    set_default_size(pipe, records)
    _attached(pipe, modules, records)
    return pipe


def pipeline_folder(source: str | os.PathLike[str], options: Mapping[str, Any]) -> Path:
    """The folder of a pipeline; for a repository, diffusers downloads it, since diffusers chooses the files.

    Parameters
    ----------
    source : folder, or address on the Hub
        `org/name`, or `hf://org/name[@revision]`.
    options : of `DiffusionPipeline.from_pretrained`
        Only those that choose the files (revision, variant, ...) or the place (cache_dir, ...) are used.

    Raises
    ------
    HubError
        Where the Hub refuses the request or does not answer.
    RekernelError
        For a source that is neither a folder nor an address, for an address with a path inside the repository, and
        where address and options name different revisions.
    """
    from diffusers import DiffusionPipeline

    check_path(source, "source")
    refuse_stored(source)
    path = Path(source)
    if path.is_dir():
        return path
    address = address_of(source)
    if address is None:
        raise RekernelError(
            f"{shown_path(path)}: is neither a folder nor a repository's name; pass the folder of a pipeline, or "
            f"organisation/model"
        )
    if address.path:
        raise RekernelError(f"{address}: a pipeline is a whole repository; leave out {shown(address.path)}")
    chosen = {name: options[name] for name in _OF_HUB if options.get(name) is not None}
    if address.revision and chosen.setdefault("revision", address.revision) != address.revision:
        raise RekernelError(f"{address}: names another revision than revision={shown(chosen['revision'])}; give one")
    if is_offline():
        chosen["local_files_only"] = True  # otherwise diffusers would try to connect, and warn
    with explained(address):
        _known_to_the_hub(address.repo, chosen)
        try:
            return Path(DiffusionPipeline.download(address.repo, **chosen))
        except OSError as error:  # diffusers raises this where it has only the cache
            reason = "HF_HUB_OFFLINE is set" if is_offline() else "the Hub does not answer"
            raise HubError(f"{address}: not all of it is in the cache, and {reason}.") from error


def _known_to_the_hub(repo: str, options: Mapping[str, Any]) -> None:
    """Raise the Hub's error for a repository that it refuses; diffusers would look into the cache instead."""
    if is_offline() or options.get("local_files_only"):
        return
    try:
        api(options.get("token")).model_info(repo, revision=options.get("revision"))
    except Exception as error:
        if not is_away(error):
            raise


def _passed(name: str, module: Any) -> Any:
    """Check that a module passed in place of a rescaled component is rescaled too, and return it."""
    from ...torch.editing.apply import PLAN

    if not isinstance(getattr(module, PLAN, None), Plan):
        raise RekernelError(
            f"{name}=: the folder's {name} is rescaled, and this {type(module).__name__} is not; pass one from "
            f"rekernel.torch.load, leave out {name}=, or load the folder with diffusers"
        )
    return module


def is_rescaled(component: Component, variant: str | None = None) -> bool:
    """Whether the weights of a component, in that variant, have a recipe."""
    if not component.candidates:
        return False
    with open_source(weights_of(component, variant)) as source:
        return recipe_of(source) is not None


def load_component(folder: Path, component: Component, plan: Plan | None, options: dict[str, Any]) -> nn.Module:
    """Build a component from its config at the trained size, then load its rescaled weights and their geometry."""
    import torch

    from ...torch.files.built_model import built
    from ...torch.files.save_load import load

    name, library, kind = component.name, component.library, component.class_name
    if library not in ("diffusers", "transformers"):
        raise RekernelError(f"{shown(name)}: rekernel cannot build a class of {shown(library)}; pass {shown(name)}=")
    made: Any = getattr(importlib.import_module(library), kind, None)
    if made is None:
        raise RekernelError(f"{shown(name)}: {library} has no class {shown(kind)}")
    path = folder / name / CONFIG
    module = built(read_object(path), shown_path(path), made)
    module = load(module, weights_of(component, options.get("variant")), plan=plan).eval()
    dtype = _dtype_of(name, options)
    return module.to(dtype) if isinstance(dtype, torch.dtype) else module


def _at_trained_size(folder: Path, component: Component, found: Recorded, options: Mapping[str, Any]) -> Any:
    """Build a denoiser at the trained size where its config has the new size; None where it has the trained size.

    The config has the new size in a pipeline saved again after loading. Transformers make their positions from the size
    in their config.
    """
    made: Any = getattr(importlib.import_module("diffusers"), component.class_name, None)
    told = None if made is None else made.load_config(folder / component.name).get("sample_size")
    if told is None or _sides(told) == found.sample_size:
        return None
    chosen = {name: options[name] for name in ("variant", "use_safetensors") if options.get(name) is not None}
    size, dtype = listed(found.sample_size), _dtype_of(component.name, options)
    return made.from_pretrained(folder / component.name, sample_size=size, dtype=dtype, **chosen)


def _dtype_of(name: str, options: Mapping[str, Any]) -> Any:
    """The requested dtype of a component, or None; `options` has one for all components, or one by name."""
    dtype = options.get("dtype", options.get("torch_dtype"))
    return dtype.get(name, dtype.get("default")) if isinstance(dtype, Mapping) else dtype


def _at_new_size(pipe: Any, modules: dict[str, nn.Module], records: dict[str, Recorded]) -> None:
    """Write the new size and the record into the configs, for loading again after `save_pretrained`."""
    from ...torch.editing.apply import PLAN

    for name in DENOISERS:
        denoiser: Any = getattr(pipe, name, None)
        found = records.get(name)
        if denoiser is None or (found is None and name not in modules):
            continue
        if name in modules:
            plan: Plan = getattr(denoiser, PLAN)
            if found is None and KEY in denoiser.config:  # a module passed by the caller, from a pipeline loaded here
                found = Recorded.from_entry(denoiser.config[KEY], name)
            size = found.sample_size if found else _sides(denoiser.config.get("sample_size"))
            found = Recorded(scale_of(plan), size, plan=plan)
        assert found is not None
        denoiser.register_to_config(**{KEY: found.to_entry()})
        new = found.new_size
        if new is None or (name not in modules and "sample_size" not in denoiser.config):
            continue  # see `set_default_size`
        if isinstance(found.sample_size, int) and isinstance(new, tuple) and not _takes_sides(pipe):
            kind = type(pipe).__name__
            note = f"{kind} has one number for both sides of its default size, which cannot be {new}; pass height= and "
            tell([f"{note}width= when calling the pipeline"])
            continue
        denoiser.register_to_config(sample_size=listed(new))


def _takes_sides(pipe: Any) -> bool:
    """Whether a pipeline accepts a sample size of two numbers: Stable Diffusion and pipelines of pixels do."""
    return hasattr(pipe, "_is_unet_config_sample_size_int") or getattr(pipe, "vae", None) is None


def _made_again(pipe: Any, options: Mapping[str, Any]) -> None:
    """Call a pipeline's constructor again: many pipelines read their denoiser's size there and keep it.

    The new size cannot be set before, since networks that depend on their size are built at the trained size.
    """
    known = {**options, **pipe.config, **pipe.components}
    names = inspect.signature(type(pipe).__init__).parameters
    pipe.__init__(**{name: known[name] for name in names if name in known})


def scale_of(plan: Plan) -> float | tuple[float, ...]:
    """The scale of a plan: a number, or one per axis where they differ."""
    scales = plan.scale if isinstance(plan.scale, tuple) else (plan.scale,)
    return scales if len(set(scales)) > 1 else scales[0]


def _sides(size: Any) -> int | tuple[int, ...] | None:
    return tuple(size) if isinstance(size, list | tuple) else None if size is None else int(size)


def _attached(pipe: Any, modules: Mapping[str, nn.Module], records: dict[str, Recorded]) -> Attached:
    """Attach what the folder records, and list it; the list stays when a part of it is removed."""
    from ...torch.editing.apply import PLAN

    made = Attached(pipe, {name: scale_of(getattr(module, PLAN)) for name, module in modules.items()})
    vars(pipe)[ATTRIBUTE] = made
    for found in records.values():
        for part in found.parts():
            part.attach(pipe)
        if found.cascade is not None:
            made.cascade = AttachedCascade(recorded_cascade(pipe, found))
    made.keep()
    said = [f"weights of {name} rescaled by {scale_text(scale)}" for name, scale in made.rescaled.items()]
    said += [repr(part) for part in (*made.parts, made.cascade) if part]
    if said:  # as one text: diffusers takes a list in `model_index.json` for a component
        pipe.register_to_config(**{KEY: "; ".join(said)})
    return made
