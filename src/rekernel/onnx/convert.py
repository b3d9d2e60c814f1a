"""ONNX models through the same door as checkpoints: a plan, an estimate, a converted file.

Knows the order of steps; the graph is `walk`'s, the file `model`'s. The recipe goes into the model's metadata.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ..atomic import AtomicFile
from ..conversion import Report
from ..errors import RekernelError
from ..escape import shown, shown_path
from ..filters import KEYS_A
from ..optimal import SMOOTHNESS
from ..plan import Plan
from ..planner import plain_scale, settings_by_name
from ..recipe import KEY, Recipe, SourceFile
from ..selection import select
from ..settings import Hints, Settings
from ..version import __version__
from .model import Model, external_files, read_model, serialised, write_model
from .rewrite import rewritten
from .state import Asked, Pass
from .walk import kept, walk

StrPath = str | os.PathLike[str]

FAMILY = "ONNX graph"


def plan_onnx(source: StrPath, scale: Any, **planning: Any) -> Plan:
    """Decide from the graph what to do with every weight and pooling of an ONNX model.

    Parameters
    ----------
    source : path
    scale, **planning
        As for `plan_checkpoint`; of the hints only `mode` says what the graph does not.

    Returns
    -------
    Plan
        Its tensors are the model's constants, its modules the poolings and resizings.

    Raises
    ------
    RekernelError
        Naming the node that cannot be rescaled faithfully.
    """
    return _planned(_opened(source), scale, **planning)[0]


def convert_onnx(
    source: StrPath,
    target: StrPath,
    *,
    plan: Plan | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **planning: Any,
) -> Report:
    """Rescale an ONNX model: kernels with their attributes, constants that hold sizes, the input's shape.

    Parameters
    ----------
    source, target : path
        Both .onnx; tensors outside the source's file are read, the target is one file.
    plan : Plan, optional
        Of this model, instead of `planning`.
    force : bool
        Replace the target.
    progress : callable, optional
        Called with (bytes done, bytes in all).
    **planning
        As for `plan_onnx`.

    Returns
    -------
    Report
    """
    source, target = Path(source), Path(target)
    if target.suffix.lower() != ".onnx":
        raise RekernelError(f"{shown_path(target)}: a converted ONNX model is called *.onnx; pass such a name")
    inputs = _files(source)
    AtomicFile(target, force=force, inputs=inputs).check()
    model = _opened(source)
    if plan is None:
        plan, done = _planned(model, **planning)
    else:
        done = _walked_again(model, plan)
    if not plan.changed:
        hint = f" Note: {plan.warnings[0]}" if plan.warnings else ""
        raise RekernelError(f"{shown_path(source)}: the plan changes nothing.{hint}")
    recipe = Recipe(plan, tuple(map(_digest, inputs)), "", f"rekernel {__version__}")
    data = serialised(rewritten(done, recipe), target)
    write_model(data, target, force=force, inputs=inputs)
    if progress:
        progress(len(data), len(data))
    changed = len(plan.changed)
    return Report(target, (target,), len(data), changed, len(plan.changes) - changed, {"": plan})


def output_bytes(source: StrPath, plan: Plan) -> int:
    """About the size of the converted file: the source's, and what the weights grow by."""
    from ..header import tensor_nbytes

    grown = sum(
        tensor_nbytes(c.dtype, c.new_shape, c.name) - tensor_nbytes(c.dtype, c.shape, c.name) for c in plan.changed
    )
    return sum(path.stat().st_size for path in _files(Path(source))) + grown


def _opened(source: StrPath) -> Model:
    model = read_model(Path(source))
    if KEY in model.metadata():
        raise RekernelError(f"{shown_path(source)}: was rescaled already; convert the original instead")
    return model


def _files(source: Path) -> list[Path]:
    """The model's file, and those beside it that hold its tensors."""
    if not source.is_file():
        raise RekernelError(f"{shown_path(source)}: no such file")
    try:
        proto = onnx.load(str(source), load_external_data=False)
    except (DecodeError, UnicodeDecodeError, ValueError, OSError) as error:
        raise RekernelError(f"{shown_path(source)}: no ONNX model: {shown(str(error), 200)}") from None
    return [source, *(path for path in external_files(proto, source.parent) if path.is_file())]


def _digest(path: Path) -> SourceFile:
    with path.open("rb") as file:
        return SourceFile(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _planned(
    model: Model,
    scale: Any,
    *,
    method: str = "optimal",
    taps: int | str | None = None,
    gain: str = "dc",
    a: float = KEYS_A,
    smoothness: float = SMOOTHNESS,
    preset: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    hints: Hints | None = None,
    allow_cast: bool = False,
    allow_pickle: bool = False,
) -> tuple[Plan, Pass]:
    if preset is not None:
        raise RekernelError("an ONNX graph has no presets; choose its tensors with --include and --exclude")
    if allow_cast or allow_pickle:
        raise RekernelError("--allow-cast and --allow-pickle are for checkpoints, not for an ONNX model")
    hints = hints or Hints()
    unused = [what for what, given in vars(hints).items() if given and what != "mode"]
    if unused:
        raise RekernelError(f"an ONNX graph says itself what --{unused[0].replace('_', '-')} would; leave it out")
    shapes = {name: tuple(tensor.dims) for name, tensor in model.constants.items()}
    hints.check(list(shapes))
    scale = plain_scale(scale)
    base = Settings(scale, method, taps, gain, a, smoothness)
    each = settings_by_name(base, overrides or {}, shapes)
    chosen = set(shapes) if include is None else select(shapes, include, "include")
    left = frozenset(set(shapes) - (chosen - select(shapes, exclude, "exclude")))
    modes = hints
    asked = Asked(scale, lambda name: each.get(name, base), left, lambda name: modes.given("mode", name))
    done = walk(model, asked)
    options = {k: v for k, v in asdict(base).items() if v is not None}
    options["scale"] = list(scale) if isinstance(scale, tuple) else scale
    return Plan(kept(model, done.changes), FAMILY, options, tuple(done.notes), tuple(done.modules)), done


def _walked_again(model: Model, plan: Plan) -> Pass:
    """The same decisions from a plan that was made before."""
    if plan.family != FAMILY or "scale" not in plan.options:
        raise RekernelError("this plan was not made for an ONNX model; make one with `rekernel plan model.onnx --json`")
    options = {k: plan.options[k] for k in asdict(Settings(1.0)) if k in plan.options}
    scale = plain_scale(options.pop("scale"))
    base = Settings(scale, **options)
    done = walk(model, Asked(scale, lambda name: base, ready=plan))
    if missing := {c.name for c in plan.changed} - done.changes.keys():
        raise RekernelError(f"the plan changes {shown(sorted(missing)[0])}, which this model does not need; plan again")
    return done
