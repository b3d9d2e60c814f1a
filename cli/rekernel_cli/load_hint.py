"""Print the last lines of a conversion: how to load the result, and how to check it.

Scope: the names of other projects' loaders. Not here: calling them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekernel import Plan, Report

CONFIG = "config.json"
_LOADERS = {"flax": "safetensors.flax.load_file", "keras": "safetensors.numpy.load_file", "mlx": "mlx.core.load"}
"""What reads files of other frameworks; docs/how-to/frameworks.md."""
NO_OTHER_LOADER = """\
No other program loads such a file: diffusers' from_single_file, ComfyUI and A1111 build 3x3 kernels. Instead
- make a folder, StableDiffusionPipeline.from_single_file(SOURCE).save_pretrained('sd'), and convert that;
- or keep the weights and guide: `rekernel convert sd sd-guided --scale 2 --guidance theta=1`, or the ComfyUI node;
- or pass `--method dilate`: it keeps the weights, which every program loads, and records the dilation for rekernel."""
"""What to do instead of converting a single file of Stable Diffusion to larger kernels."""


def how_to_load(report: Report) -> str:
    """The line for what was written."""
    from rekernel.escape import shell_word

    plan, file = report.plans.get(""), report.files[0]
    if plan is None:
        return f"It loads with rekernel: {pipeline_loader(report.target)}"
    if file.suffix.lower() == ".onnx":
        return f"It runs as before, on images of the new size: onnxruntime.InferenceSession({str(file)!r})"
    if _is_adapter(plan):
        return (
            "It loads as before, into the model that is converted with the same options;\n"
            "into the original one it does not fit."
        )
    if plan.resamples:
        return (
            "Its weights are those of the source. rekernel.torch.load resamples images of the new size in front of\n"
            "the model; any other loader needs images of the trained size."
        )
    if is_single_file(change.name for change in plan.changes):
        return single_file_loader(report.target, plan)
    geometry = any(change.new_geometry for change in plan.changed)
    listed = f"the new kernels, strides and padding, which `rekernel inspect {shell_word(report.target)}` lists"
    lists = listed if geometry else "the new shapes"
    if other := foreign_loader(metadata_of(file)):
        return f"{other}({str(file)!r}) reads it, for a model with {lists}."
    config = next((path for path in report.files if path.name == CONFIG and path.parent == file.parent), None)
    folder = report.target if report.target.is_dir() else report.target.parent
    call, kind = model_loader(report.target, folder if config else None, plan)
    if kind and kind in call:
        return f"It loads as before, for images of the new size: {call}"
    if kind:
        return f"{call} loads it.\n{kind}.from_pretrained does not: its config has no entry for {lists}."
    ours = f"{call} loads it into the model as it was trained, whose layers"
    return f"{ours}\nit changes. Another loader (safetensors.torch.load_file) needs a model with {lists}."


def model_loader(target: Path, folder: Path | None, plan: Plan) -> tuple[str, str]:
    """The call that loads a rescaled model, and the class that its configuration names.

    Parameters
    ----------
    target : the file or folder with the weights
    folder : the folder with the configuration; None if there is none

    Returns
    -------
    call : of `from_pretrained` of this class where it loads the model alone; else of rekernel
    kind : empty without a configuration that names a class of transformers or diffusers
    """
    from rekernel.checkpoint.strict_json import read_object
    from rekernel.conversion.transformers_config import loads_plainly
    from rekernel.errors import RekernelError
    from rekernel.plan.config_entry import class_name

    try:
        config = {} if folder is None else read_object(folder / CONFIG)
    except RekernelError:
        config = {}
    kind = "" if "auto_map" in config else class_name(config)  # else a class of Python code beside it
    if kind and loads_plainly(config, plan):
        return f"{kind}.from_pretrained({str(folder)!r})", kind
    if kind:
        return f"rekernel.torch.load_pretrained({str(target)!r})", kind
    return f"rekernel.torch.load(model, {str(target)!r})", ""


def foreign_loader(metadata: Mapping[str, str]) -> str:
    """What reads a file of another framework than PyTorch; empty for one of PyTorch.

    Examples
    --------
    >>> foreign_loader({"format": "flax"}), foreign_loader({"format": "pt"})
    ('safetensors.flax.load_file', '')
    """
    from rekernel.architectures.axis_order import layout_of

    return _LOADERS.get(layout_of(metadata).name, "")


def metadata_of(file: Path) -> Mapping[str, str]:
    """The metadata of a safetensors file; empty for any other."""
    from rekernel.checkpoint.shard import shard_of_file

    return shard_of_file(file).header.metadata if file.suffix.lower() == ".safetensors" else {}


def is_single_file(names: Iterable[str]) -> bool:
    """Whether tensors are those of Stable Diffusion in one file."""
    from rekernel.architectures.diffusion import SingleFileDiffusion

    return SingleFileDiffusion().recognises(dict.fromkeys(names, ()))


def single_file_loader(target: Path, plan: Plan) -> str:
    """What loads a single file of Stable Diffusion whose kernels changed, and what to do instead where nothing does."""
    if not any(change.operators for change in plan.changed):
        return (
            f"Its weights are those of the source, so that every program loads it, without the dilation.\n"
            f"rekernel.diffusion.load_pipeline({str(target)!r}) loads the pipeline, and dilates its layers."
        )
    return NO_OTHER_LOADER


def how_to_check(source: str, report: Report, *, allow_pickle: bool = False) -> str:
    """The line about checking a conversion by names, which saw no model run; empty where there is nothing to check."""
    from rekernel.escape import shell_word
    from rekernel.sources.store_address import store_address

    plan = report.plans.get("")
    if plan is None or plan.origin != "names" or plan.resamples or _is_adapter(plan):
        return ""
    if is_single_file(change.name for change in plan.changes) or foreign_loader(metadata_of(report.files[0])):
        return ""
    if any(store_address(place) for place in (source, report.target)):
        return "convert saw only tensor names, not the model's code; rekernel verify checks copies on this disk."
    pickle = " --allow-pickle" if allow_pickle else ""
    command = f"rekernel verify {shell_word(source)} {shell_word(report.target)}"
    if _names_its_class(Path(source)):
        return (
            "convert saw only tensor names, not the model's code, so check the result:\n"
            f"{command}{pickle} compares both."
        )
    return (
        "convert saw only tensor names, not the model's code, so check the result with the model:\n"
        f"{command} --model MODULE:NAME --input CxHxW{pickle} compares both."
    )


def _names_its_class(source: Path) -> bool:
    """Whether a folder's config.json says which class of transformers, diffusers or timm its network has."""
    from rekernel import RekernelError
    from rekernel.checkpoint.strict_json import read_object

    if not (source / "config.json").is_file():
        return False
    try:
        config = read_object(source / "config.json")
    except RekernelError:
        return False
    return any(config.get(key) for key in ("architectures", "_class_name", "architecture"))


def pipeline_loader(folder: Path) -> str:
    """The call that loads a pipeline's folder."""
    from rekernel.checkpoint.pipeline_folder import find_pipeline

    found = find_pipeline(folder)
    if found is None or not found.brings_code:
        return f"rekernel.diffusion.load_pipeline({str(folder)!r})"
    return (
        f"rekernel.diffusion.load_pipeline({str(folder)!r}, trust_remote_code=True)\n"
        f"That runs the Python code in the folder."
    )


def _is_adapter(plan: Plan) -> bool:
    """Whether the tensors are those of an adapter, which is loaded beside a model."""
    from rekernel.architectures.lora import Adapter

    return Adapter().recognises({change.name: change.shape for change in plan.changes})
