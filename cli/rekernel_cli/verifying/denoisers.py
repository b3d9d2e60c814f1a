"""The measurement of `rekernel verify` for denoisers of diffusion, alone or in a pipeline's folder.

Scope: folders, schedulers and conditions. Not here: the comparison (see `rekernel.diffusion.verify_denoiser`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rekernel.checkpoint.pipeline_folder import Pipeline, find_pipeline
from rekernel.checkpoint.strict_json import read_object
from rekernel.diffusion import DenoiserVerification, verify_denoiser
from rekernel.diffusion.denoiser.names import DENOISERS
from rekernel.diffusion.measure.example_call import made_up_conditions
from rekernel.diffusion.pipelines.record import read_records
from rekernel.errors import RekernelError
from rekernel.escape import shown, shown_path
from rekernel.resampling.geometry import new_size
from rekernel.torch.measure.equivariance import plan_scales

from ..user_code import running
from .models import Pair
from .pictures import read_data
from .preprocessing import Preprocessing

_COUNT = 8  # pictures
_PROMPT = "a photograph"
_PIXELS = Preprocessing(mean=(0.5,), std=(0.5,), origin="-1 to 1, as diffusion networks read pictures")


class _SeenError(Exception):
    """The pipeline has called its denoiser, and nothing more is needed of it."""


def of_pipelines(source: str, converted: str) -> tuple[str, str, Pipeline | None]:
    """The folders of the denoisers of two pipelines, and the original pipeline; other paths as they are."""
    pipeline = find_pipeline(source) if Path(source).is_dir() else None
    if pipeline is None:
        return source, converted, None
    name = next((name for name in DENOISERS if name in pipeline.components), None)
    if name is None:
        raise RekernelError(f"{shown(source, 400)}: this pipeline has no {' or '.join(DENOISERS)} to compare")
    if not Path(source, name, "config.json").is_file():
        raise RekernelError(f"{shown_path(Path(source, name))}: no such folder, though model_index.json names it")
    inside = Path(converted, name)
    other = find_pipeline(converted) if Path(converted).is_dir() else None
    recorded = None if other is None else read_records(other).get(name)
    if recorded is not None and recorded.plan is None:
        raise RekernelError(
            f"{shown(converted, 400)}: records guidance or kernels for sampling, and its weights are the original's, "
            f"so there is nothing to compare; draw with it: rekernel sample"
        )
    return str(Path(source, name)), str(inside) if inside.is_dir() else converted, pipeline


def compare_denoisers(
    pair: Pair,
    folder: Path,
    pipeline: Pipeline | None,
    size: tuple[int, ...],
    *,
    times: Sequence[float] | None,
    prompt: str | None,
    data: Path | None,
    most: int,
) -> DenoiserVerification:
    """Compare two denoisers under the conditions of their pipeline, or made-up ones.

    Parameters
    ----------
    folder : the original denoiser's folder
    size : trained size in pixels of the network
    """
    scheduler, notes = _scheduler(folder, pipeline)
    new = tuple(new_size(n, s) for n, s in zip(size, plan_scales(pair.rescaled, len(size)), strict=True))
    pictures = None if data is None else _pictures(data, pair, pipeline, new, most)
    count = _COUNT if pictures is None else len(pictures)
    kind = type(pair.original).__name__
    with running(f"{kind} at {'x'.join(map(str, new))}"):
        conditions = None if pipeline is None else _of_prompt(pipeline, prompt, new, count)
        if conditions is not None:
            notes.append(f"prompt: {shown(prompt or _PROMPT)}")
        elif prompt is not None:
            raise RekernelError(f"--prompt: {shown(str(folder), 400)} belongs to no pipeline that takes a prompt")
        else:
            conditions = made_up_conditions(pair.original, count, new)
            if conditions:
                notes.append(f"made up, since no pipeline gives them: {', '.join(conditions)}")
        if pictures is None:
            notes.append("the pictures are samples of the trained network, enlarged")
        return verify_denoiser(
            pair.original, pair.rescaled, size, scheduler=scheduler, times=times, conditions=conditions,
            pictures=pictures, count=count, notes=notes,
        )  # fmt: skip


def _scheduler(folder: Path, pipeline: Pipeline | None) -> tuple[Any, list[str]]:
    """The pipeline's scheduler, that of the folder above, or diffusers' default, which a note names."""
    diffusers: Any = importlib.import_module("diffusers")
    place = (folder.parent if pipeline is None else pipeline.path) / "scheduler"
    path = place / "scheduler_config.json"
    if not path.is_file():
        return diffusers.DDPMScheduler(), [
            "no scheduler lies beside the network: a linear schedule of 1,000 steps and prediction of noise are assumed"
        ]
    config = read_object(path, "scheduler configuration")
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None or not hasattr(kind, "from_config"):
        raise RekernelError(f"{shown_path(path)}: diffusers has no scheduler {shown(str(config.get('_class_name')))}")
    with running(shown_path(path)):
        return kind.from_config(config), []


def _pictures(data: Path, pair: Pair, pipeline: Pipeline | None, new: tuple[int, ...], most: int) -> Tensor:
    if pipeline is not None and {"vae", "vqvae"} & pipeline.components.keys():
        raise RekernelError(
            "--data: this network reads latents, which pictures are not; leave out --data, and samples of the trained "
            "network are compared"
        )
    channels = int(getattr(pair.original, "config", {}).get("in_channels") or 3)
    return read_data(data, channels, new, _PIXELS, most=min(most, 64)).images


def _of_prompt(pipeline: Pipeline, prompt: str | None, new: tuple[int, ...], count: int) -> dict[str, Any] | None:
    """What a pipeline passes to its denoiser besides image and time; None if it takes no prompt, or brings code."""
    if pipeline.brings_code:
        return None
    diffusers: Any = importlib.import_module("diffusers")
    pipe = diffusers.DiffusionPipeline.from_pretrained(pipeline.path).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    takes = inspect.signature(pipe.__call__).parameters
    if "prompt" not in takes:
        return None
    denoiser: nn.Module = getattr(pipe, "unet", None) or pipe.transformer
    names = list(inspect.signature(denoiser.forward).parameters)
    seen: dict[str, Any] = {}

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(dict(zip(names, args, strict=False)) | kwargs)
        raise _SeenError

    options: dict[str, Any] = {"prompt": [prompt or _PROMPT] * count, "num_inference_steps": 1}
    options |= {"guidance_scale": 1.0} if "guidance_scale" in takes else {}
    if {"height", "width"} <= takes.keys():
        factor = int(getattr(pipe, "vae_scale_factor", 1))
        options |= {"height": new[-2] * factor, "width": new[-1] * factor}
    handle = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        pipe(**options)
    except _SeenError:
        pass
    finally:
        handle.remove()
    return _conditions(seen)


def _conditions(seen: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in seen.items()
        if name not in ("sample", "hidden_states", "timestep", "return_dict") and value is not None
    }
