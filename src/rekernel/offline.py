"""Offline conversion: a plan and a checkpoint become a converted checkpoint.

Knows what may be asked for and refuses the rest; `conversion` carries it out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint.discover import onnx_of
from .checkpoint.dtypes import target_dtype
from .checkpoint.paths import StrPath
from .conversion.downloads import fetch
from .conversion.output_files import arrange, output_tensors
from .conversion.parts import parts_of
from .conversion.report import Progress, Report
from .conversion.run import Conversion, Options
from .conversion.streaming import peak_bytes
from .errors import Option, RekernelError
from .escape import shown_path
from .plan.plan import Plan
from .planning.by_name import plan_checkpoint
from .planning.guards import nothing_changes, refuse_recorded
from .sources.opening import open_location
from .sources.place import Place

_INTERPRETER = 80 << 20  # resident before the first tensor: Python, NumPy, BLAS (benchmarks/speed/convert.py)


@dataclass(frozen=True)
class Estimate:
    """What a conversion will need.

    output_bytes : of all files it writes, headers aside
    peak_memory : resident bytes, about
    files : (name, bytes) of the checkpoints written
    """

    output_bytes: int
    peak_memory: int
    files: tuple[tuple[str, int], ...]


def plan_source(source: StrPath, *, components: Sequence[str] | None = None, **planning: Any) -> dict[str, Plan]:
    """Plans for whatever `source` is: one under '' for a checkpoint, one per component for a pipeline folder.

    Parameters
    ----------
    source : path or address
        Anything `open_checkpoint` takes, a diffusers pipeline folder, or an ONNX model or its folder. Of an `hf://`
        address headers are all that is fetched; of an ONNX model its file, since a graph has no header.
    components : sequence of str, optional
        Of a pipeline; by default its UNet.
    **planning
        As for `plan_checkpoint`.

    Examples
    --------
    >>> import tempfile, numpy as np, safetensors.numpy as st
    >>> path = Path(tempfile.mkdtemp()) / "in.safetensors"
    >>> st.save_file({"conv.weight": np.ones((8, 4, 3, 3), np.float32)}, path)
    >>> list(plan_source(path, scale=2))
    ['']
    """
    with open_location(source) as place:
        model = onnx_of(place.path)
        if model is not None:
            from .onnx import plan_onnx

            _refuse_for_onnx(components=components)
            return {"": plan_onnx(place, model, **planning)}
        return _plans(place, parts_of(place.path, components), planning)


def _refuse_for_onnx(**options: Any) -> None:
    """Raise for what has a meaning for checkpoints alone."""
    for name, value in options.items():
        if value:
            named = Option(name, f"--{name.removesuffix('s').replace('_', '-')}")  # --component is given once for each
            raise RekernelError(named, " is for checkpoints; an ONNX model is converted as one file, without it")


def _plans(place: Place, parts: Mapping[str, Path], planning: Mapping[str, Any]) -> dict[str, Plan]:
    plans = {}
    for name, path in parts.items():
        refuse_recorded(path, whole=bool(name) or path.is_dir())
        with place.open(path, allow_pickle=planning.get("allow_pickle", False)) as opened:
            plans[name] = plan_checkpoint(opened, **planning)
    return plans


def estimate(
    source: StrPath,
    plans: Plan | Mapping[str, Plan],
    *,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    allow_pickle: bool = False,
) -> Estimate:
    """Size and memory of a conversion, from headers alone.

    Parameters
    ----------
    source : path
        As for `convert`.
    plans : Plan, or what `plan_source` gave
    dtype, max_shard_size, allow_pickle
        As for `convert`.

    Examples
    --------
    >>> import tempfile, numpy as np, safetensors.numpy as st
    >>> path = Path(tempfile.mkdtemp()) / "in.safetensors"
    >>> st.save_file({"conv.weight": np.ones((8, 4, 3, 3), np.float32)}, path)
    >>> estimate(path, plan_source(path, scale=2)).output_bytes == 8 * 4 * 5 * 5 * 4
    True
    """
    plans = {"": plans} if isinstance(plans, Plan) else plans
    dtype = target_dtype(dtype) if dtype else None
    files: list[tuple[str, int]] = []
    peak = 0
    with open_location(source) as place:
        model = onnx_of(place.path)
        if model is not None:
            from .onnx import output_bytes

            _refuse_for_onnx(dtype=dtype, max_shard_size=max_shard_size)
            nbytes = output_bytes(place, model, plans[""])
            return Estimate(nbytes, _INTERPRETER + 3 * nbytes, ((model.name, nbytes),))
        for name, path in parts_of(place.path, [n for n in plans if n] or None).items():
            with place.open(path, allow_pickle=allow_pickle) as opened:
                outputs = arrange(opened, output_tensors(opened, plans[name], dtype), path.name, max_shard_size)
            files += [(f"{name}/{file.name}" if name else file.name, file.nbytes) for file in outputs.files]
            peak = max(peak, peak_bytes(outputs.files))
    return Estimate(sum(size for _, size in files), _INTERPRETER + peak, tuple(files))


def convert(
    source: StrPath,
    target: StrPath,
    *,
    plan: Plan | None = None,
    components: Sequence[str] | None = None,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    resume: bool = False,
    force: bool = False,
    allow_cast: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    **planning: Any,
) -> Report:
    """Rescale the weights of a checkpoint and write them to `target`.

    Streams one piece of a tensor at a time; every byte that the plan does not change is copied. Equal source and
    options give equal bytes. The recipe (plan, digests of the source) goes into the metadata under one key.

    Parameters
    ----------
    source : path or address
        A safetensors file, an index, a folder with one of them, a diffusers pipeline folder, an ONNX model or a folder
        with one; or the `hf://` address of any, of which what is needed is downloaded once the plan stands.
    target : path
        A file for a file, otherwise a folder.
    plan : Plan, optional
        Instead of `planning`.
    components : sequence of str, optional
        Of a pipeline, those to rescale; by default its UNet. All else is copied.
    dtype : str, optional
        Cast every float16, bfloat16, float32 and float64 tensor to this.
    max_shard_size : int, optional
        Repack into files of at most so many bytes, with an index.
    resume : bool
        Take over the files that an interrupted conversion with the same source and options finished.
    force : bool
        Replace what is at the destination.
    allow_cast, allow_pickle
        As for `plan_checkpoint` and `open_checkpoint`.
    progress : callable, optional
        Called with (bytes done, bytes in all) after each piece.
    **planning
        As for `plan_checkpoint`: scale, method, ...

    Returns
    -------
    Report

    Raises
    ------
    RekernelError
        Before anything is written wherever possible; nothing half-written is left.

    Examples
    --------
    >>> import tempfile, numpy as np, safetensors.numpy as st
    >>> folder = Path(tempfile.mkdtemp())
    >>> st.save_file({"conv.weight": np.ones((8, 4, 3, 3), np.float32)}, folder / "in.safetensors")
    >>> report = convert(folder / "in.safetensors", folder / "out.safetensors", scale=2)
    >>> st.load_file(report.target)["conv.weight"].shape
    (8, 4, 5, 5)
    """
    options = Options(
        target_dtype(dtype) if dtype else None, max_shard_size, resume, force, allow_cast, allow_pickle, progress
    )
    if plan is None and "scale" not in planning:
        raise RekernelError("convert needs a scale, or a plan made by plan_checkpoint")
    if plan is not None and planning:
        raise RekernelError(f"convert takes a plan or {sorted(planning)[0]}=..., not both: the plan has decided that")
    planning = {**planning, "allow_cast": allow_cast, "allow_pickle": allow_pickle}
    into_folder = os.fspath(target).endswith(("/", os.sep))  # which Path forgets
    with open_location(source) as place:
        model = onnx_of(place.path)
        if model is not None:
            from .onnx import convert_onnx

            _refuse_for_onnx(dtype=dtype, max_shard_size=max_shard_size, components=components, resume=resume)
            asked = planning if plan is None else {}
            return convert_onnx(
                place, model, Path(target), into_folder=into_folder, plan=plan, force=force, progress=progress, **asked
            )
        parts = parts_of(place.path, components)
        if plan is not None and len(parts) > 1:
            raise RekernelError(f"one plan does not fit {len(parts)} components; convert them one at a time")
        plans = _plans(place, parts, planning) if plan is None else dict.fromkeys(parts, plan)
        if not any(p.changed for p in plans.values()) and dtype is None and max_shard_size is None:
            raise nothing_changes(shown_path(place.path), [w for p in plans.values() for w in p.warnings])
        fetched = fetch(place, parts, allow_pickle=allow_pickle)
    run = Conversion(options, plans, fetched.origin)
    pipeline = fetched.pipeline()
    if pipeline is None:
        return run.checkpoint(fetched, Path(target), into_folder=into_folder)
    return run.pipeline(pipeline, fetched, Path(target))
