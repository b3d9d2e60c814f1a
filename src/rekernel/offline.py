"""Plan, estimate and convert a checkpoint or an ONNX model on disk.

Scope: the arguments. Not here: the work for each format (see `formats`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Unpack

from .checkpoint.dtypes import target_dtype
from .checkpoint.paths import StrPath
from .conversion.options import Options
from .conversion.report import Report
from .conversion.workers.part import Part
from .errors import RekernelError
from .formats.model_files import Estimate, Order, PlanRequest
from .formats.recognise import model_files
from .formats.trained_size import trained_size
from .messages.arguments import check_instance, check_names, check_path, kind_of, short
from .messages.log import logger, timed
from .messages.path_errors import explains_paths
from .messages.progress_bar import Progress, shown_progress
from .messages.warn import tell
from .plan.plan import Plan
from .planning.asked_scale import asked_scale
from .planning.settings import PlanningOptions, Scale
from .sources.opening import open_location
from .sources.store_address import on_disk, store_address

__all__ = ["Estimate", "convert", "estimate", "plan_source", "scale_between"]

Size = int | Sequence[int] | str
"""A size in pixels: one number for all axes, (height, width), or '1024x768' with the width first."""

_LOG = logger(__name__)


@explains_paths("source")
def plan_source(
    source: StrPath,
    scale: Scale | None = None,
    *,
    size: Size | None = None,
    from_size: Size | None = None,
    components: Sequence[str] | None = None,
    allow_cast: bool = False,
    allow_pickle: bool = False,
    **planning: Unpack[PlanningOptions],
) -> dict[str, Plan]:
    """Make the plans for a source: one under '' for a checkpoint, one per component for a pipeline folder.

    Parameters
    ----------
    source : path or address
        Anything `open_checkpoint` takes, a diffusers pipeline folder, or an ONNX model or its folder. For an `hf://`
        address only headers are downloaded; for an ONNX model its whole file, since a graph has no header.
    scale : float or sequence of float
        As for `plan_checkpoint`.
    size, from_size : int, (height, width) or '1024x768' (width first), optional
        Instead of `scale`: the new size of an image and the trained one, in pixels. The trained one is read from the
        configuration beside the weights where it tells one.
    components : sequence of str, optional
        Components of a pipeline to plan; by default the UNet.
    allow_cast, allow_pickle, **planning
        As for `plan_checkpoint`.

    Warns
    -----
    RekernelWarning
        As `plan_checkpoint`.

    Examples
    --------
    >>> import tempfile, numpy as np, safetensors.numpy as st
    >>> path = Path(tempfile.mkdtemp()) / "in.safetensors"
    >>> st.save_file({"conv.weight": np.ones((8, 8, 3, 3), np.float32)}, path)
    >>> list(plan_source(path, scale=2))
    ['']
    """
    check_names(planning, PlanningOptions.__annotations__, "plan_source")
    with timed(_LOG, "planning"), open_location(source) as place:
        asked = asked_scale(scale, size, from_size, lambda: trained_size(place))
        plans = model_files(place).plan(PlanRequest(asked, planning, allow_cast, allow_pickle), components)
    tell(note for plan in plans.values() for note in plan.warnings)
    return plans


@explains_paths("source")
def scale_between(source: StrPath, size: Size, from_size: Size | None = None) -> Scale:
    """The scale from the trained size of a source, or from `from_size`, to another size.

    Parameters
    ----------
    source : path or address
        As for `plan_source`.
    size, from_size : int, (height, width) or '1024x768' (width first)

    Examples
    --------
    >>> scale_between("net.safetensors", "1024x768", 512)
    (1.5, 2)
    """
    with open_location(source) as place:
        return asked_scale(None, size, from_size, lambda: trained_size(place))


@explains_paths("source")
def estimate(
    source: StrPath,
    plans: Plan | Mapping[str, Plan],
    *,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    allow_pickle: bool = False,
) -> Estimate:
    """Estimate the size and the memory of a conversion from headers alone.

    Parameters
    ----------
    source : path
        As for `convert`.
    plans : Plan, or the result of `plan_source`
    dtype, max_shard_size, allow_pickle
        As for `convert`.

    Examples
    --------
    >>> import tempfile, numpy as np, safetensors.numpy as st
    >>> path = Path(tempfile.mkdtemp()) / "in.safetensors"
    >>> st.save_file({"conv.weight": np.ones((8, 8, 3, 3), np.float32)}, path)
    >>> estimate(path, plan_source(path, scale=2)).output_bytes == 8 * 8 * 5 * 5 * 4
    True
    """
    check_path(source, "source")
    plans = {"": plans} if isinstance(plans, Plan) else plans
    if not isinstance(plans, Mapping) or not all(isinstance(plan, Plan) for plan in plans.values()):
        raise RekernelError(f"plans is {kind_of(plans)}, not a Plan; pass what plan_checkpoint or plan_source returned")
    dtype = target_dtype(dtype) if dtype else None
    with open_location(source) as place:
        return model_files(place).estimate(plans, dtype=dtype, max_shard_size=max_shard_size, allow_pickle=allow_pickle)


@explains_paths("source", "target")
def convert(
    source: StrPath,
    target: StrPath,
    *,
    scale: Scale | None = None,
    size: Size | None = None,
    from_size: Size | None = None,
    plan: Plan | None = None,
    components: Sequence[str] | None = None,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    resume: bool = False,
    force: bool = False,
    allow_cast: bool = False,
    allow_pickle: bool = False,
    progress: Progress | bool | None = None,
    executor: Executor | None = None,
    part: str | None = None,
    finish: bool = False,
    **planning: Unpack[PlanningOptions],
) -> Report:
    """Rescale the weights of a checkpoint and write them to `target`.

    Streams one piece of a tensor at a time. Every byte that the plan does not change is copied. The recipe (plan,
    digests of the source) goes into the metadata under one key. On one machine with the same versions, equal source and
    options give equal bytes. On another machine the last place of a sum may differ.

    Parameters
    ----------
    source : path or address
        A safetensors file, an index, a folder with one of them, a diffusers pipeline folder, an ONNX model or a folder
        with one; or the `hf://` address of any of these, whose files are downloaded after the plan is made. A
        checkpoint or a pipeline folder may also be at an address that fsspec knows, such as `s3://bucket/folder`, and
        is read by ranges.
    target : path or address
        A file for a file, otherwise a folder. One run at a time writes there; another one is refused. A store that
        fsspec knows has no locks: there, two runs into one folder do not notice each other.
    scale : float or sequence of float
        As for `plan_checkpoint`.
    size, from_size : int, (height, width) or '1024x768' (width first), optional
        As for `plan_source`: instead of `scale`.
    plan : Plan, optional
        Plan to use instead of `scale`, `size` and `planning`.
    components : sequence of str, optional
        Components of a pipeline to rescale; by default the UNet. All other components are copied.
    dtype : str, optional
        Cast every float16, bfloat16, float32 and float64 tensor to this.
    max_shard_size : int, optional
        Largest size of a file in bytes; tensors are repacked into several files with an index.
    resume : bool
        Take over the files that an interrupted conversion with the same source and options finished.
    force : bool
        Replace what is at the destination. A folder is written aside and swapped at the end; where the system cannot
        swap it, or it holds other files, its files are replaced one by one at the end.
    allow_cast, allow_pickle
        As for `plan_checkpoint` and `open_checkpoint`.
    progress : bool or callable, optional
        True shows a bar of tqdm. A function is called with (bytes done, bytes in all) after each piece.
    executor : concurrent.futures.Executor, optional
        What writes the files of weights: processes, or machines that see the same folders, such as those of
        `distributed.Client.get_executor()`. Each file is a task of one thread; this thread checks, copies the other
        files, and writes the index last. The bytes are the same. See docs/how-to/many-workers.md.
    part : str, optional
        '3/16' writes the third of sixteen shares of the files into a hidden folder beside `target`, which does not
        change. The runs of all parts, with the same arguments, may run at once on machines that share the disk.
    finish : bool
        Make the result of what all parts have written.
    **planning
        As for `plan_checkpoint`: method, taps, include, hints, ...

    Returns
    -------
    Report

    Raises
    ------
    RekernelError
        Before anything is written, if possible. A file that was only partly written is removed.

    Warns
    -----
    RekernelWarning
        Each note of the plans before anything is written, unless `plan` is given, whose notes were told when it was
        made; then each note of `Report.told`.

    Examples
    --------
    >>> import tempfile, numpy as np, safetensors.numpy as st
    >>> folder = Path(tempfile.mkdtemp())
    >>> st.save_file({"conv.weight": np.ones((8, 8, 3, 3), np.float32)}, folder / "in.safetensors")
    >>> report = convert(folder / "in.safetensors", folder / "out.safetensors", scale=2)
    >>> st.load_file(report.target)["conv.weight"].shape
    (8, 8, 5, 5)
    """
    check_path(source, "source")
    check_path(target, "target")
    check_names(planning, PlanningOptions.__annotations__, "convert")
    if max_shard_size is not None and not isinstance(max_shard_size, int):
        raise RekernelError(
            f"max_shard_size={short(max_shard_size)} is not a number of bytes; pass one, such as 5_000_000_000"
        )
    if executor is not None:
        check_instance(executor, Executor, "executor", "pass a ProcessPoolExecutor, or Client(...).get_executor()")
    chosen = None if part is None else Part.of(part)
    if (chosen is not None or finish) and (executor is not None or (chosen is not None and finish)):
        raise RekernelError("part, finish and executor are three ways to share a conversion out; pass one of them")
    asked_for = {"scale": scale, "size": size, "from_size": from_size}
    given = [*planning, *(name for name, value in asked_for.items() if value is not None)]
    if plan is not None:
        if given:
            raise RekernelError(
                f"convert takes a plan or {min(given)}=..., not both: the plan already contains that choice"
            )
        advice = "pass what plan_checkpoint returned, or Plan.from_json(text)"
        check_instance(plan, Plan, "plan", f"{advice}; of plan_source take the plan of the component")
    elif scale is None and size is None:
        raise RekernelError("convert needs a scale or a size, or a plan made by plan_checkpoint")
    into_folder = os.fspath(target).endswith(("/", os.sep))  # Path drops the slash at the end
    cast = target_dtype(dtype) if dtype else None
    with (
        timed(_LOG, "conversion"),
        shown_progress(progress, "converting") as callback,
        open_location(source) as place,
    ):
        ordered: Plan | PlanRequest
        if plan is None:
            asked = asked_scale(scale, size, from_size, lambda: trained_size(place))
            ordered = PlanRequest(asked, planning, allow_cast, allow_pickle)
        else:
            ordered = plan
        options = Options(
            cast,
            max_shard_size,
            resume,
            force,
            allow_cast,
            allow_pickle,
            callback,
            executor=executor,
            part=chosen,
            finish=finish,
        )
        to = store_address(target) or Path(on_disk(target))
        report = model_files(place).convert(Order(to, into_folder, ordered, components, options))
    tell(report.told())
    return report
