"""Print the last lines of a conversion: how to load the result, and how to check it.

Scope: the names of other projects' loaders. Not here: calling them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekernel import Plan, Report


def how_to_load(report: Report, where: str) -> str:
    """The line for what was written; `where` is the target as it is shown."""
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
    if _loads_plainly(report, plan):
        return f"It loads as before, for images of the new size: from_pretrained({str(report.target)!r})"
    ours = f"rekernel.torch.load(model, {str(report.target)!r}) loads it into the model as it was trained, whose layers"
    if any(change.new_geometry for change in plan.changed):
        return (
            f"{ours}\nit changes. Another loader (safetensors.torch.load_file) needs a model whose layers have the "
            f"kernels, strides and\npadding that `rekernel inspect {where}` lists."
        )
    return f"{ours}\nit changes. Another loader (safetensors.torch.load_file) needs a model with the new shapes."


def how_to_check(source: str, report: Report, where: str, *, allow_pickle: bool = False) -> str:
    """The line about checking a conversion by names, which saw no model run; empty where there is nothing to check."""
    plan = report.plans.get("")
    if plan is None or plan.origin != "names" or plan.resamples or _is_adapter(plan):
        return ""
    pickle = " --allow-pickle" if allow_pickle else ""
    if _names_its_class(Path(source)):
        return (
            "Names alone cannot be checked: they do not show what the model's code does.\n"
            f"rekernel verify {source} {where}{pickle} compares both."
        )
    return (
        "Names alone cannot be checked: they do not show what the model's code does. With the model,\n"
        f"rekernel verify {source} {where} --model MODULE:NAME --input CxHxW{pickle} compares both."
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


def _loads_plainly(report: Report, plan: Plan) -> bool:
    """Whether the configuration that was copied along tells transformers all that changed."""
    from rekernel.conversion.transformers_config import CONFIG, file_loads_plainly

    config = next((path for path in report.files if path.name == CONFIG), None)
    return config is not None and file_loads_plainly(config, plan)
